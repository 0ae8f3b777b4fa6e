"""The decoder of the embedded model: answers that begin with what was promised, step by step."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random

import numpy as np
import pytest

from streamasr.core.errors import ConfigError, DecodeError
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array
from streamasr.decoder.batching import Answer
from streamasr.decoder.llama import Aborted
from streamasr.decoder.openings import Openings
from streamasr.decoder.script import Script
from streamasr.models.family import Encoded
from streamasr.models.onnx import OnnxOptions
from streamasr.models.qwen3 import decoder as decoder_module
from streamasr.models.qwen3.decoder import MAX_CONTEXT_TOKENS, Qwen3ASRDecoder, add_hotwords
from streamasr.models.qwen3.encoder import Qwen3Encoder
from tests.support.errors import raises
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


def encoded_clip(encoder: Qwen3Encoder, clip: str) -> Encoded:
    return Encoded(encoder.encode(read_clip(clip)))


@pytest.mark.parametrize("language", [None, "English"])
@pytest.mark.parametrize("clip", CLIPS)
def test_any_beginning_of_the_answer_leads_to_the_same_answer(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder, clip: str, language: str | None
) -> None:
    encoded = encoded_clip(encoder, clip)
    free = decoder.decode(encoded, SessionOptions(language=language))
    assert len(free.ends) == len(free.tokens)
    for n in range(0, len(free.tokens) + 1, 3):
        forced = decoder.decode(encoded, SessionOptions(language=language), forced=free.tokens[:n])
        assert forced == free


@pytest.mark.parametrize("clip", ["espeak_1", "mandarin"])
def test_what_was_promised_is_kept_whatever_the_audio_says(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder, clip: str
) -> None:
    other = decoder.decode(encoded_clip(encoder, "flite"))
    n = len(other.tokens) // 2
    forced = other.tokens[:n]
    answer = decoder.decode(encoded_clip(encoder, clip), forced=forced)
    assert answer.tokens[:n] == forced
    assert answer.ends[:n] == other.ends[:n]
    assert answer.text.startswith(other.text[: other.ends[n - 1]])


def test_what_was_promised_is_kept_when_the_context_is_dropped(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder
) -> None:
    encoded = encoded_clip(encoder, "espeak_1")
    free = decoder.decode(encoded)
    # Its own answer for a context looks recited, so that it is decoded once more without it.
    forced = free.tokens[: len(free.tokens) // 2]
    answer = decoder.decode(encoded, SessionOptions(context=free.text), forced=forced)
    assert answer == free


def test_silence_may_be_the_answer_to_any_promise(decoder: Qwen3ASRDecoder) -> None:
    answer = decoder.decode(Encoded(np.zeros((1, 192), np.float32)), forced=())
    again = decoder.decode(Encoded(np.zeros((1, 192), np.float32)), forced=answer.tokens)
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
    """Random beginnings of all clips, growing, with drafts and forced tokens, in common steps."""
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
                encoded = Encoded(encoder.encode(samples[: n_samples[clip]]))
                tokens = last[clip].tokens
                n_forced = random.choice([0, random.randint(0, len(tokens))])
                orders.append((clip, encoded, tokens[:n_forced], tokens))
            answers = [
                kept.begin(clip, encoded, forced=forced, draft=draft)
                for clip, encoded, forced, draft in orders
            ]
            for order, result in zip(orders, finish(kept, answers), strict=True):
                clip, encoded, forced, _ = order
                gaps.of.clear()
                expected = scratch.decode(encoded, forced=forced)
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
    """Return the number of steps until an answer is complete."""
    steps = 0
    while not answer.is_complete:
        decoder.step([answer])
        steps += 1
    return steps


def test_a_draft_saves_the_steps_of_its_tokens(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder
) -> None:
    encoded = encoded_clip(encoder, "espeak_1")
    free = decoder.decode(encoded)
    key = object()
    first = decoder.begin(key, encoded)
    n_first = n_steps(decoder, first)
    assert n_first > len(free.tokens)
    assert n_steps(decoder, decoder.begin(key, encoded, draft=free.tokens)) == 1
    decoder.release(key)
    again = decoder.begin(key, encoded, draft=free.tokens)
    assert n_steps(decoder, again) == n_first - len(free.tokens)
    assert again.result == first.result == free
    decoder.release(key)


def test_what_an_abandoned_answer_had_found_is_a_draft(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder
) -> None:
    encoded = encoded_clip(encoder, "espeak_1")
    free = decoder.decode(encoded)
    key = object()
    abandoned = decoder.begin(key, encoded)
    while len(abandoned.question.content.text) - abandoned.question.content.n_prompt < 8:
        decoder.step([abandoned])
    answer = decoder.begin(key, encoded)
    assert n_steps(decoder, answer) <= len(free.tokens) - 6
    assert answer.result == free
    decoder.release(key)


def test_without_reuse_drafts_change_nothing(encoder: Qwen3Encoder, bundle: Path) -> None:
    encoded = encoded_clip(encoder, "espeak_1")
    with Qwen3ASRDecoder(
        bundle / "decoder.gguf", n_threads=1, max_segment_s=30, reuse=False
    ) as decoder:
        first = decoder.begin("key", encoded)
        n_first = n_steps(decoder, first)
        assert first.result is not None
        again = decoder.begin("key", encoded, draft=first.result.tokens)
        assert n_steps(decoder, again) == n_first
        assert again.result == first.result


def test_embeddings_of_another_model_fail_alone(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder
) -> None:
    encoded = encoded_clip(encoder, "flite")
    broken = Encoded(np.zeros((5, 100), np.float32))
    answers = [decoder.begin("a", broken), decoder.begin("b", encoded)]
    [result] = finish(decoder, answers)
    assert answers[0].error
    assert answers[0].error.code == "embeddings_width"
    assert result == decoder.decode(encoded)
    with raises(DecodeError, "embeddings_width"):
        decoder.decode(broken)


def test_an_abandoned_step_can_be_done_again(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder
) -> None:
    encoded = encoded_clip(encoder, "flite")
    expected = decoder.decode(encoded)
    answer = decoder.begin("a", encoded)
    while not answer.is_complete:
        decoder.abandon()
        with pytest.raises(Aborted):
            decoder.step([answer])
        decoder.rearm()
        decoder.step([answer])
    assert answer.result == expected
    decoder.release("a")


def test_a_context_that_is_too_long_is_refused(decoder: Qwen3ASRDecoder) -> None:
    decoder.check_options(SessionOptions(context="a" * MAX_CONTEXT_TOKENS))
    with raises(ConfigError, "context_too_long") as caught:
        decoder.check_options(SessionOptions(context="one two " * MAX_CONTEXT_TOKENS))
    assert "at most 512 fit" in str(caught.value)


def test_hotwords_count_as_context(decoder: Qwen3ASRDecoder) -> None:
    half = "a" * (MAX_CONTEXT_TOKENS // 2)
    decoder.check_options(SessionOptions(context=half, hotwords=(half[:-2],)))
    with raises(ConfigError, "context_too_long"):
        decoder.check_options(SessionOptions(context=half, hotwords=(half, half)))


def test_a_script_says_how_much_is_said(encoder: Qwen3Encoder, bundle: Path) -> None:
    encoded = encoded_clip(encoder, "flite")
    with Qwen3ASRDecoder(
        bundle / "decoder.gguf", n_threads=1, max_segment_s=30, script=Script(0.3)
    ) as decoder:
        first = decoder.decode(encoded)
        assert len(first.tokens) == round(0.3 * len(encoded.embeddings))
        assert decoder.decode(encoded) == first
        shorter = decoder.decode(Encoded(encoded.embeddings[:-4]))
        n_same = len(shorter.tokens) - 2
        assert shorter.tokens[:n_same] == first.tokens[:n_same]


# Languages that are allowed


def languages(*names: str) -> SessionOptions:
    return SessionOptions(languages=names)


@pytest.mark.parametrize(
    ("clip", "spoken"), [("espeak_1", "English"), ("flite", "English"), ("mandarin", "Chinese")]
)
def test_the_language_that_is_spoken_is_chosen_where_it_is_allowed(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder, clip: str, spoken: str
) -> None:
    encoded = encoded_clip(encoder, clip)
    free = decoder.decode(encoded)
    assert free.language == spoken
    assert decoder.decode(encoded, languages("Chinese", "English")) == free
    assert decoder.decode(encoded, languages("German", "English", "Chinese", "French")) == free


@pytest.mark.parametrize("clip", ["espeak_1", "mandarin"])
def test_only_an_allowed_language_is_named(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder, clip: str
) -> None:
    encoded = encoded_clip(encoder, clip)
    free = decoder.decode(encoded)
    other = {"English": "Chinese", "Chinese": "English"}[str(free.language)]
    allowed = languages(other, "German")
    answer = decoder.decode(encoded, allowed)
    assert answer.language in {other, "German", None}
    key = object()
    for draft in (free.tokens, answer.tokens):  # what others had said leads nowhere else
        [again] = finish(decoder, [decoder.begin(key, encoded, allowed, draft=draft)])
        assert again == answer
    decoder.release(key)


@pytest.mark.parametrize("clip", ["espeak_1", "mandarin"])
@pytest.mark.parametrize("language", ["English", "Chinese"])
def test_one_allowed_language_is_forced(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder, clip: str, language: str
) -> None:
    encoded = encoded_clip(encoder, clip)
    forced = decoder.decode(encoded, SessionOptions(language=language))
    assert decoder.decode(encoded, languages(language)) == forced
    assert forced.language == language
    both = SessionOptions(language=language, languages=("German", "French"))
    assert decoder.decode(encoded, both) == forced


def test_silence_has_no_language_whatever_is_allowed(
    encoder: Qwen3Encoder, decoder: Qwen3ASRDecoder
) -> None:
    encoded = Encoded(encoder.encode(np.zeros(24_000, np.float32)))
    silence = decoder.decode(encoded)
    assert (silence.language, silence.text) == (None, "")
    assert decoder.decode(encoded, languages("German", "French")) == silence


def header_tokens(decoder: Qwen3ASRDecoder, name: str) -> list[int]:
    return decoder.model.tokenize(f"language {name}<asr_text>", special=True)


@pytest.mark.parametrize(
    ("preferred", "chosen"),
    [
        (("German", "Chinese", "English"), "Chinese"),
        (("German", "English", "Chinese"), "English"),
        (("German", "French"), None),
    ],
)
def test_a_model_that_prefers_another_language_names_the_best_of_those_allowed(
    decoder: Qwen3ASRDecoder,
    monkeypatch: pytest.MonkeyPatch,
    preferred: tuple[str, ...],
    chosen: str | None,
) -> None:
    """Logits are replaced: each preferred name is as likely as its place says, then silence."""
    wanted = [header_tokens(decoder, name) for name in (*preferred, "None")]
    restrict = Openings.restrict

    def prefer(self: Openings, logits: Float32Array, tokens: Sequence[int]) -> Float32Array:
        scripted = np.zeros_like(logits)
        for rank, header in enumerate(wanted):
            if header[: len(tokens)] == list(tokens) and len(tokens) < len(header):
                token = header[len(tokens)]
                scripted[token] = max(scripted[token], 100 - rank)
        return restrict(self, scripted, tokens)

    monkeypatch.setattr(Openings, "restrict", prefer)
    speech = Encoded(np.ones((20, decoder.model.n_embd), np.float32))
    assert decoder.decode(speech, languages("English", "Chinese")).language == chosen
