"""The decoder of the embedded model: answers that begin with what was promised, step by step."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random

import numpy as np
import pytest

from streamasr.core.errors import ConfigError, DecodeError
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.units import Float32Array
from streamasr.decoder.batching import Answer
from streamasr.decoder.llama import Aborted
from streamasr.decoder.script import Script
from streamasr.models.onnx import OnnxOptions
from streamasr.models.qwen3 import decoder as decoder_module
from streamasr.models.qwen3.decoder import MAX_CONTEXT_TOKENS, Qwen3ASRDecoder, add_hotwords
from streamasr.models.qwen3.encoder import Qwen3Encoder
from tests.support.goldens import TINY_CLIPS, read_clip
from tests.support.rounding import NEAR_TIE, Gaps

CLIPS = sorted(path.stem for path in TINY_CLIPS.glob("*.flac"))

MAX_SHARE = 0.02
"""Of answers, that differ from those from scratch because of it."""


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> Qwen3Encoder:
    return Qwen3Encoder.from_bundle(bundle, OnnxOptions(threads=1))


@pytest.fixture(scope="module")
def decoder(bundle: Path) -> Iterator[Qwen3ASRDecoder]:
    with Qwen3ASRDecoder(bundle / "decoder.gguf", n_threads=1, max_segment_s=30) as decoder:
        yield decoder


def embeddings_of(encoder: Qwen3Encoder, clip: str) -> Float32Array:
    return encoder.encode(read_clip(clip))


@pytest.mark.parametrize("language", [None, "English"])
@pytest.mark.parametrize("clip", CLIPS)
def test_any_beginning_of_the_answer_leads_to_the_same_answer(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder, clip: str, language: str | None
) -> None:
    embeddings = embeddings_of(encoder, clip)
    free = decoder.decode(embeddings, language=language)
    assert len(free.ends) == len(free.tokens)
    for n in range(0, len(free.tokens) + 1, 3):
        forced = decoder.decode(embeddings, language=language, forced=free.tokens[:n])
        assert forced == free


@pytest.mark.parametrize("clip", ["espeak_1", "mandarin"])
def test_what_was_promised_is_kept_whatever_the_audio_says(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder, clip: str
) -> None:
    other = decoder.decode(embeddings_of(encoder, "flite"))
    n = len(other.tokens) // 2
    forced = other.tokens[:n]
    answer = decoder.decode(embeddings_of(encoder, clip), forced=forced)
    assert answer.tokens[:n] == forced
    assert answer.ends[:n] == other.ends[:n]
    assert answer.text.startswith(other.text[: other.ends[n - 1]])


def test_what_was_promised_is_kept_when_the_context_is_dropped(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder
) -> None:
    embeddings = embeddings_of(encoder, "espeak_1")
    free = decoder.decode(embeddings)
    # Its own answer for a context looks recited, so that it is decoded once more without it.
    forced = free.tokens[: len(free.tokens) // 2]
    answer = decoder.decode(embeddings, context=free.text, forced=forced)
    assert answer == free


def test_silence_may_be_the_answer_to_any_promise(decoder: Qwen3ASRDecoder) -> None:
    answer = decoder.decode(np.zeros((1, 192), np.float32), forced=())
    again = decoder.decode(np.zeros((1, 192), np.float32), forced=answer.tokens)
    assert again == answer


@pytest.mark.parametrize(
    ("context", "hotwords", "joined"),
    [
        ("", [], ""),
        (" a text\n", [], "a text"),
        ("", ["Ada"], "Ada"),
        ("a text", ["Ada", " Eve ", "", " "], "a text\nAda, Eve"),
    ],
)
def test_hotwords_join_the_context(context: str, hotwords: list[str], joined: str) -> None:
    assert add_hotwords(context, hotwords) == joined


# Step by step


def finish(decoder: Qwen3ASRDecoder, answers: Sequence[Answer[Hypothesis]]) -> list[Hypothesis]:
    """Complete answers together."""
    while waiting := [answer for answer in answers if not answer.is_complete]:
        decoder.step(waiting)
    results = [answer.result for answer in answers]
    return [result for result in results if result is not None]


@pytest.mark.parametrize("max_segment_s", [30, 1], ids=["all is kept", "cells are scarce"])
def test_updates_give_the_answers_from_scratch(
    encoder: Qwen3Encoder, bundle: Path, monkeypatch: pytest.MonkeyPatch, max_segment_s: float
) -> None:
    """Random beginnings of all clips, growing, with drafts and promises, in common steps."""
    random = Random(7)
    gaps = Gaps()
    monkeypatch.setattr(decoder_module, "greedy", gaps.choose)
    path = bundle / "decoder.gguf"
    last = {clip: Hypothesis("", None, ()) for clip in CLIPS}
    n_answers, differing, chosen = 0, list[float](), list[float]()
    with ExitStack() as stack:
        kept = stack.enter_context(Qwen3ASRDecoder(path, n_threads=1, max_segment_s=max_segment_s))
        scratch = stack.enter_context(
            Qwen3ASRDecoder(path, n_threads=1, max_segment_s=30, reuse=False)
        )
        n_samples = dict.fromkeys(CLIPS, 0)
        for _ in range(20):
            orders = []
            for clip in random.sample(CLIPS, len(CLIPS) - 2):
                samples = read_clip(clip)
                n_samples[clip] = min(n_samples[clip] + random.randint(800, 8000), len(samples))
                embeddings = encoder.encode(samples[: n_samples[clip]])
                tokens = last[clip].tokens
                n_forced = random.choice([0, random.randint(0, len(tokens))])
                orders.append((clip, embeddings, tokens[:n_forced], tokens))
            answers = [
                kept.begin(clip, embeddings, forced=forced, draft=draft)
                for clip, embeddings, forced, draft in orders
            ]
            for order, result in zip(orders, finish(kept, answers), strict=True):
                clip, embeddings, forced, _ = order
                gaps.of.clear()
                expected = scratch.decode(embeddings, forced=forced)
                chosen += gaps.of.values()
                last[clip] = result
                n_answers += 1
                if result != expected:
                    differing.append(gap_at_difference(result, expected, gaps))
    n_near = sum(gap < NEAR_TIE for gap in chosen)
    print(f"{len(differing)} of {n_answers} answers differ; {n_near} of {len(chosen)} near ties")
    assert all(gap < NEAR_TIE for gap in differing), differing
    assert len(differing) <= MAX_SHARE * n_answers


def gap_at_difference(result: Hypothesis, expected: Hypothesis, gaps: Gaps) -> float:
    """By how much the first token won that another run has not chosen."""
    n_tokens = min(len(result.tokens), len(expected.tokens))
    pairs = zip(result.tokens, expected.tokens, strict=False)
    return gaps.of[next((n for n, (a, b) in enumerate(pairs) if a != b), n_tokens)]


def n_steps(decoder: Qwen3ASRDecoder, answer: Answer[Hypothesis]) -> int:
    """How many steps it takes until an answer is complete."""
    steps = 0
    while not answer.is_complete:
        decoder.step([answer])
        steps += 1
    return steps


def test_a_draft_saves_the_steps_of_its_tokens(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder
) -> None:
    embeddings = embeddings_of(encoder, "espeak_1")
    free = decoder.decode(embeddings)
    key = object()
    first = decoder.begin(key, embeddings)
    n_first = n_steps(decoder, first)
    assert n_first > len(free.tokens)
    assert n_steps(decoder, decoder.begin(key, embeddings, draft=free.tokens)) == 1
    decoder.release(key)
    again = decoder.begin(key, embeddings, draft=free.tokens)
    assert n_steps(decoder, again) == n_first - len(free.tokens)
    assert again.result == first.result == free
    decoder.release(key)


def test_what_an_abandoned_answer_had_found_is_a_draft(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder
) -> None:
    embeddings = embeddings_of(encoder, "espeak_1")
    free = decoder.decode(embeddings)
    key = object()
    abandoned = decoder.begin(key, embeddings)
    while len(abandoned.question.content.text) - abandoned.question.content.n_prompt < 8:
        decoder.step([abandoned])
    answer = decoder.begin(key, embeddings)
    assert n_steps(decoder, answer) <= len(free.tokens) - 6
    assert answer.result == free
    decoder.release(key)


def test_without_reuse_drafts_change_nothing(encoder: Qwen3Encoder, bundle: Path) -> None:
    embeddings = embeddings_of(encoder, "espeak_1")
    with Qwen3ASRDecoder(
        bundle / "decoder.gguf", n_threads=1, max_segment_s=30, reuse=False
    ) as decoder:
        first = decoder.begin("key", embeddings)
        n_first = n_steps(decoder, first)
        assert first.result is not None
        again = decoder.begin("key", embeddings, draft=first.result.tokens)
        assert n_steps(decoder, again) == n_first
        assert again.result == first.result


def test_embeddings_of_another_model_fail_alone(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder
) -> None:
    embeddings = embeddings_of(encoder, "flite")
    broken = np.zeros((5, 100), np.float32)
    answers = [decoder.begin("a", broken), decoder.begin("b", embeddings)]
    [result] = finish(decoder, answers)
    assert "they are not a pair" in str(answers[0].error)
    assert result == decoder.decode(embeddings)
    with pytest.raises(DecodeError, match="not a pair"):
        decoder.decode(broken)


def test_an_abandoned_step_can_be_done_again(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder
) -> None:
    embeddings = embeddings_of(encoder, "flite")
    expected = decoder.decode(embeddings)
    answer = decoder.begin("a", embeddings)
    while not answer.is_complete:
        decoder.abandon()
        with pytest.raises(Aborted):
            decoder.step([answer])
        decoder.rearm()
        decoder.step([answer])
    assert answer.result == expected
    decoder.release("a")


def test_a_context_that_is_too_long_is_refused(decoder: Qwen3ASRDecoder) -> None:
    decoder.check_context("a" * MAX_CONTEXT_TOKENS)
    with pytest.raises(ConfigError, match="tokens long, at most 512 fit"):
        decoder.check_context("one two " * MAX_CONTEXT_TOKENS)


def test_a_script_says_how_much_is_said(encoder: Qwen3Encoder, bundle: Path) -> None:
    embeddings = embeddings_of(encoder, "flite")
    with Qwen3ASRDecoder(
        bundle / "decoder.gguf", n_threads=1, max_segment_s=30, script=Script(0.3)
    ) as decoder:
        first = decoder.decode(embeddings)
        assert len(first.tokens) == round(0.3 * len(embeddings))
        assert decoder.decode(embeddings) == first
        shorter = decoder.decode(embeddings[:-4])
        n_same = len(shorter.tokens) - 2
        assert shorter.tokens[:n_same] == first.tokens[:n_same]
