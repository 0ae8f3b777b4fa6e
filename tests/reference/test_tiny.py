"""The embedded model against transformers, on all clips that come with it."""

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.reference.reference import Reference, reference_log_mel
from tests.support.goldens import TINY_ALIGNER, TINY_RECOGNISER, clip_facts, read_clip, words_of
from tests.support.parity import Recogniser, assert_same, assert_same_logits, open_aligner

pytestmark = pytest.mark.reference

CONTEXTS = {"": False, "seven eight nine": False, "the next page": True}  # language forced?


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recogniser]:
    with Recogniser(TINY_RECOGNISER, tmp_path_factory.mktemp("tiny") / "bundle") as recogniser:
        yield recogniser


def test_the_recogniser_is_equal_stage_by_stage(recogniser: Recogniser) -> None:
    reference = Reference(TINY_RECOGNISER)
    for name, clip in clip_facts().items():
        samples = read_clip(name)
        for context, is_forced in CONTEXTS.items():
            # Forcing a language that is not spoken would compare guesses.
            language = (clip["language"] or None) if is_forced else None
            ours = recogniser.run(samples, context, language)
            expected = reference.encode(samples)
            np.testing.assert_allclose(ours.log_mel, reference_log_mel(samples), rtol=0, atol=1e-4)
            assert_same(ours.conv_output, expected.conv_output)
            assert_same(ours.encoder_output, expected.encoder_output)
            assert_same(ours.embeddings, expected.embeddings)
            assert ours.prompt == reference.prompt(context, language, len(ours.embeddings))
            first_logits, answer = reference.answer(ours.prompt, samples, ours.answer)
            assert_same_logits(ours.first_logits, first_logits)
            assert ours.answer == answer, name


def test_the_aligner_chooses_the_same_classes(tmp_path_factory: pytest.TempPathFactory) -> None:
    reference = Reference(TINY_ALIGNER, is_aligner=True)
    directory = tmp_path_factory.mktemp("tiny") / "bundle"
    n_slots = n_equal = 0
    with open_aligner(TINY_ALIGNER, directory) as aligner:
        for name, clip in clip_facts().items():
            if words := words_of(clip):
                samples = read_clip(name)
                logits = reference.classes(samples, words)
                ours = np.array(aligner.align(samples, words).milliseconds) // 80
                # Two classes that the reference cannot tell apart either may change places:
                # llama.cpp keeps keys and values in float16.
                lost = logits.max(axis=-1) - logits[np.arange(len(ours)), ours]
                assert lost.max() <= 1e-2 * np.abs(logits).max(), name
                n_slots += len(ours)
                n_equal += int((ours == logits.argmax(axis=-1)).sum())
    assert n_equal >= 0.98 * n_slots
