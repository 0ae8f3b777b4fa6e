"""Decoder and aligner of random checkpoints against transformers, from samples to tokens."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.reference.reference import Reference
from tests.support.checkpoints import KeyStyle, Shape, write_checkpoint
from tests.support.parity import Recogniser, assert_same_logits, open_aligner
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
ROUNDING = 1e-2  # of the largest logit, as in `assert_same_logits`


@pytest.mark.parametrize("style", ["native", "original"])
@pytest.mark.parametrize("name", RECOGNISERS)
def test_a_recogniser_decodes_alike(tmp_path: Path, name: str, style: KeyStyle) -> None:
    # transformers reads the native style only; the weights are the same.
    reference = Reference(write_checkpoint(tmp_path / "native", RECOGNISERS[name]))
    checkpoint = write_checkpoint(tmp_path / style, RECOGNISERS[name], style=style)
    with Recogniser(checkpoint, tmp_path / "bundle") as recogniser:
        for n_samples in CLIPS:
            for context, language in REQUESTS:
                samples = speechlike(n_samples)
                ours = recogniser.run(samples, context, language)
                assert ours.prompt == reference.prompt(context, language, len(ours.embeddings))
                expected = reference.answer_logits(ours.prompt, samples, ours.answer)
                assert_same_logits(ours.first_logits, expected[0])
                assert_chosen(np.array(ours.answer, int), expected[: len(ours.answer)])


@pytest.mark.parametrize("style", ["native", "original"])
@pytest.mark.parametrize("name", ALIGNERS)
def test_an_aligner_classifies_alike(tmp_path: Path, name: str, style: KeyStyle) -> None:
    reference = Reference(write_checkpoint(tmp_path / "native", ALIGNERS[name]), is_aligner=True)
    checkpoint = write_checkpoint(tmp_path / style, ALIGNERS[name], style=style)
    with open_aligner(checkpoint, tmp_path / "bundle") as aligner:
        for n_samples in CLIPS:
            samples = speechlike(n_samples)
            expected = reference.classes(samples, WORDS)
            classes = np.array(aligner.align(samples, WORDS).milliseconds) // 80
            assert_chosen(classes, expected)


def assert_chosen(choices: np.ndarray, expected: np.ndarray) -> None:
    """Compare choices with the highest logits, (n, n_choices).

    Random weights give near ties now and then, where rounding decides: there the choice
    must be one of those that tie.
    """
    chosen = expected[np.arange(len(expected)), choices]
    assert np.all(expected.max(axis=-1) - chosen <= ROUNDING * np.abs(expected).max(axis=-1))
    assert np.count_nonzero(expected.argmax(axis=-1) != choices) <= 0.2 * len(choices) + 1
