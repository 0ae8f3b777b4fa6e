"""Decoder and aligner of random checkpoints against transformers, from samples to tokens."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.reference.reference import Reference
from tests.support.checkpoints import KeyStyle, Shape, write_checkpoint
from tests.support.parity import Recogniser, open_aligner
from tests.support.rounding import assert_chosen, assert_same_logits
from tests.support.signals import speechlike

pytestmark = pytest.mark.reference

RECOGNISERS = {
    "small": Shape(),
    "untied": Shape(tied=False),
    "heads wider than hidden": Shape(hidden=32, heads=6, kv_heads=3, head_dim=64),
    "other rope": Shape(rope_theta=10_000.0, layers=3),
    "1.7B-like": Shape(hidden=2048, d_model=64, encoder_heads=4, heads=4, kv_heads=2, ffn=256),
}
ALIGNERS = {
    "small": Shape(n_classes=150),
    "5000 classes": Shape(n_classes=5000, head_dim=16, heads=4, kv_heads=4),
}
CLIPS = (8_000, 140_000)  # samples
REQUESTS = (
    ("", None),
    ("the language he", "English"),
    ("naïve 中文, 🙂", None),
)  # context, language
WORDS = ["the", "language", "中", "naïve", "he"]


@pytest.mark.parametrize("style", ["native", "original"])
@pytest.mark.parametrize("name", RECOGNISERS)
def test_a_recogniser_decodes_like_the_reference(
    tmp_path: Path, name: str, style: KeyStyle
) -> None:
    # transformers reads only the native style; the weights are the same.
    native = write_checkpoint(tmp_path / "native", RECOGNISERS[name])
    reference, half = Reference(native), Reference(native, arithmetic="half attention")
    checkpoint = write_checkpoint(tmp_path / style, RECOGNISERS[name], style=style)
    with Recogniser(checkpoint, tmp_path / "bundle") as recogniser:
        for n_samples in CLIPS:
            for context, language in REQUESTS:
                samples = speechlike(n_samples)
                ours = recogniser.run(samples, context, language)
                assert ours.prompt == reference.prompt(context, language, len(ours.embeddings))
                expected = reference.answer_logits(ours.prompt, samples, ours.answer)
                rounded = half.answer_logits(ours.prompt, samples, ours.answer)
                error = np.abs(rounded - expected).max()
                assert_same_logits(ours.first_logits, expected[0], error)
                assert_chosen(np.array(ours.answer, int), expected[: len(ours.answer)], error)


@pytest.mark.parametrize("style", ["native", "original"])
@pytest.mark.parametrize("name", ALIGNERS)
def test_an_aligner_classifies_like_the_reference(
    tmp_path: Path, name: str, style: KeyStyle
) -> None:
    native = write_checkpoint(tmp_path / "native", ALIGNERS[name])
    reference = Reference(native, is_aligner=True)
    half = Reference(native, is_aligner=True, arithmetic="half attention")
    checkpoint = write_checkpoint(tmp_path / style, ALIGNERS[name], style=style)
    with open_aligner(checkpoint, tmp_path / "bundle") as aligner:
        for n_samples in CLIPS:
            samples = speechlike(n_samples)
            expected = reference.classes(samples, WORDS)
            error = np.abs(half.classes(samples, WORDS) - expected).max()
            classes = np.array(aligner.align(samples, WORDS).milliseconds) // 80
            assert_chosen(classes, expected, error)
