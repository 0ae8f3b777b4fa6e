"""The embedded model against transformers, on all clips in tests/data/tiny_clips."""

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.reference.reference import Reference, reference_log_mel
from tests.support.exact_log_mel import ExactLogMel, assert_correct
from tests.support.goldens import TINY_ALIGNER, TINY_RECOGNISER, clip_facts, read_clip, words_of
from tests.support.greedy import MAX_NEW_TOKENS
from tests.support.parity import Recogniser, open_aligner
from tests.support.rounding import (
    DOUBLE,
    HALF_GAP,
    HALF_LOGIT,
    SINGLE,
    assert_chosen,
    assert_same,
    assert_same_logits,
    gap_errors,
    gaps,
    near_tie,
)

pytestmark = pytest.mark.reference

CONTEXTS = {"": False, "seven eight nine": False, "the next page": True}  # language forced?


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recogniser]:
    with Recogniser(TINY_RECOGNISER, tmp_path_factory.mktemp("tiny") / "bundle") as recogniser:
        yield recogniser


def test_the_recogniser_is_equal_stage_by_stage(recogniser: Recogniser) -> None:
    reference = Reference(TINY_RECOGNISER)
    single = Reference(TINY_RECOGNISER, arithmetic="single")
    half = Reference(TINY_RECOGNISER, arithmetic="half attention")
    for name, clip in clip_facts().items():
        samples = read_clip(name)
        expected = reference.encode(samples)
        errors = single.encode(samples).errors(expected)
        exact_log_mel = ExactLogMel(samples)
        assert_correct(reference_log_mel(samples), exact_log_mel, SINGLE)
        for context, is_forced in CONTEXTS.items():
            # With a forced language that is not spoken, the answers would be arbitrary.
            language = (clip["language"] or None) if is_forced else None
            ours = recogniser.run(samples, context, language)
            assert_correct(ours.log_mel, exact_log_mel, DOUBLE)
            assert_same(ours.conv_output, expected.conv_output, errors["conv_output"])
            assert_same(ours.encoder_output, expected.encoder_output, errors["encoder_output"])
            assert_same(ours.embeddings, expected.embeddings, errors["embeddings"])
            assert ours.prompt == reference.prompt(context, language, len(ours.embeddings))
            logits = reference.answer_logits(ours.prompt, samples, ours.answer)
            rounded = half.answer_logits(ours.prompt, samples, ours.answer)
            error = np.abs(rounded - logits).max()
            assert_same_logits(ours.first_logits, logits[0], error)
            assert_chosen(np.array(ours.answer, int), logits[:-1], error)
            ends = sorted(reference.ends)
            assert len(ours.answer) == MAX_NEW_TOKENS or (
                logits[-1].max() - logits[-1, ends].max() <= near_tie(error)
            )


def test_the_aligner_chooses_the_same_classes(tmp_path_factory: pytest.TempPathFactory) -> None:
    reference = Reference(TINY_ALIGNER, is_aligner=True)
    half = Reference(TINY_ALIGNER, is_aligner=True, arithmetic="half attention")
    directory = tmp_path_factory.mktemp("tiny") / "bundle"
    is_near: list[bool] = []
    with open_aligner(TINY_ALIGNER, directory) as aligner:
        for name, clip in clip_facts().items():
            if words := words_of(clip):
                samples = read_clip(name)
                logits = reference.classes(samples, words)
                ours = np.array(aligner.align(samples, words).milliseconds) // 80
                error = np.abs(half.classes(samples, words) - logits).max()
                assert_chosen(ours, logits, error)
                is_near += (gaps(logits) <= near_tie(error)).tolist()
    assert len(is_near) > 100
    assert np.mean(is_near) < 0.2  # the other classes are not near ties


def test_half_precision_moves_logits_within_the_stated_limits() -> None:
    reference = Reference(TINY_RECOGNISER)
    half = Reference(TINY_RECOGNISER, arithmetic="half decoder")
    aligner = Reference(TINY_ALIGNER, is_aligner=True)
    half_aligner = Reference(TINY_ALIGNER, is_aligner=True, arithmetic="half decoder")
    pairs = []  # rounded and exact
    for name, clip in clip_facts().items():
        samples = read_clip(name)
        n_audio = len(reference.encode(samples).embeddings)
        spoken = f"language {clip['language'] or None}<asr_text>{clip['text']}"
        answer = reference.tokenizer.encode(spoken, add_special_tokens=False)
        for context in CONTEXTS:
            prompt = reference.prompt(context, None, n_audio)
            pairs.append([one.answer_logits(prompt, samples, answer) for one in (half, reference)])
        if words := words_of(clip):
            pairs.append([one.classes(samples, words) for one in (half_aligner, aligner)])
    moved = max(float(np.abs(rounded - exact).max()) for rounded, exact in pairs)
    gap_moved = max(float(gap_errors(rounded, exact).max()) for rounded, exact in pairs)
    assert HALF_LOGIT / 2 < moved <= HALF_LOGIT
    assert HALF_GAP / 2 < gap_moved <= HALF_GAP
