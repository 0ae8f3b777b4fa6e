"""Random checkpoints in every published form against transformers, from samples to tokens."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from streamasr.importing.pack import import_model
from streamasr.models.onnx import OnnxOptions
from streamasr.models.qwen3.aligner import ForcedAligner
from tests.reference.reference import Reference
from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.forms import FORMS, LOSSY, Recogniser, cosine
from tests.support.rounding import assert_chosen
from tests.support.signals import speechlike

pytestmark = pytest.mark.reference

RECOGNISERS = {
    "small": Shape(),
    "untied": Shape(tied=False, layers=3, encoder_layers=3),
    "rows of whole blocks": Shape(
        hidden=256, ffn=512, head_dim=64, heads=4, d_model=256, encoder_heads=4, encoder_ffn=512
    ),
    "1.7B-like": Shape(hidden=2048, d_model=64, encoder_heads=4, heads=4, kv_heads=2, ffn=256),
}
ALIGNERS = {
    "small": Shape(n_classes=150, tied=False),
    "rows of whole blocks": Shape(
        n_classes=256, tied=False, hidden=256, ffn=512, d_model=128, encoder_heads=2
    ),
}
CLIPS = (8_000, 140_000)  # samples: short, and longer than an attention window
N_TOKENS = 24
WORDS = ["the", "language", "中", "naïve", "he"]


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        (shape, name)
        for shape, sizes in RECOGNISERS.items()
        for name, form in FORMS.items()
        if "recogniser" in form.families and (form.has_head or sizes.tied)
    ],
)
def test_a_recogniser_in_any_form_decodes_like_the_reference(
    tmp_path: Path, shape: str, name: str
) -> None:
    checkpoint = write_checkpoint(tmp_path / "native", RECOGNISERS[shape])
    reference, half = Reference(checkpoint), Reference(checkpoint, arithmetic="half")
    form = FORMS[name]
    bundle = import_model(form.write(checkpoint, tmp_path / "source"), tmp_path / "b", form.options)
    with Recogniser(bundle.directory) as recogniser:
        for n_samples in CLIPS:
            samples = speechlike(n_samples)
            embeddings = recogniser.encoder.encode(samples)
            similarity = cosine(embeddings, reference.encode(samples).embeddings)
            assert similarity >= form.cosine or form.cosine == LOSSY
            if form.is_greedy_exact:
                answer = recogniser.greedy(embeddings, N_TOKENS)
                prompt = reference.prompt("", None, len(embeddings))
                expected = reference.answer_logits(prompt, samples, answer)
                error = np.abs(half.answer_logits(prompt, samples, answer) - expected).max()
                assert_chosen(np.array(answer, int), expected[: len(answer)], error)


@pytest.mark.parametrize("name", [n for n, f in FORMS.items() if "aligner" in f.families])
@pytest.mark.parametrize("shape", ALIGNERS)
def test_an_aligner_in_any_form_classifies_like_the_reference(
    tmp_path: Path, shape: str, name: str
) -> None:
    checkpoint = write_checkpoint(tmp_path / "native", ALIGNERS[shape])
    reference, form = Reference(checkpoint, is_aligner=True), FORMS[name]
    half = Reference(checkpoint, is_aligner=True, arithmetic="half")
    bundle = import_model(form.write(checkpoint, tmp_path / "source"), tmp_path / "b", form.options)
    with ForcedAligner(bundle.directory, OnnxOptions(threads=1), n_threads=1) as aligner:
        for n_samples in CLIPS:
            samples = speechlike(n_samples)
            logits = aligner.classify(aligner._encoder.encode(samples), WORDS)
            expected = reference.classes(samples, WORDS)
            assert logits.shape == expected.shape
            if form.is_greedy_exact:
                error = np.abs(half.classes(samples, WORDS) - expected).max()
                assert_chosen(logits.argmax(axis=-1), expected, error)
            elif form.cosine > LOSSY:
                assert cosine(logits, expected) >= 0.8  # for 3 bits; other types are closer
