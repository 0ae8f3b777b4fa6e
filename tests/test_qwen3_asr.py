"""The decoder of the embedded model: answers that begin with what was promised."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamasr.models.onnx import OnnxOptions
from streamasr.models.qwen3_asr import Qwen3ASRDecoder, add_hotwords
from streamasr.models.qwen3_encoder import Qwen3Encoder
from streamasr.units import Float32Array
from tests.goldens import TINY_CLIPS, read_clip

CLIPS = sorted(path.stem for path in TINY_CLIPS.glob("*.flac"))


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
