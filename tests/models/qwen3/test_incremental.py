"""The whole path of an update, encoder and decoder: what it gives is what from scratch gives.

Greedy decoding takes the most likely token, so that two computations of the same, in batches of
other sizes, can differ where the two most likely ones are as good as equal. Such near ties are
counted; everything else must be identical.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamasr.core.errors import AudioError
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.options import SessionOptions
from streamasr.core.units import SAMPLE_RATE, Float32Array
from streamasr.models import tiny
from streamasr.models.family import Encoded
from streamasr.models.onnx import OnnxOptions
from streamasr.models.qwen3 import decoder
from streamasr.models.qwen3.decoder import Qwen3ASRDecoder
from streamasr.models.qwen3.encoder import Qwen3Encoder
from streamasr.models.qwen3.growing_encoder import Utterance
from tests.support.clips import clips, sound
from tests.support.rounding import NEAR_TIE, Gaps

MAX_NEAR_TIES = 0.02
"""Share of the updates that may differ by one."""

LONGEST_S = 12.0
ENCODERS = {
    window_s: Qwen3Encoder.from_bundle(tiny.BUNDLE, OnnxOptions(threads=1), window_s=window_s)
    for window_s in (1, 2, 8)
}


@dataclass(slots=True)
class Tally:
    """Numbers of comparisons."""

    n_updates: int = 0
    n_near_ties: int = 0
    widest: float = 0.0


@dataclass(slots=True)
class Bench:
    """Both decoders, and what came of comparing them."""

    incremental: Qwen3ASRDecoder
    scratch: Qwen3ASRDecoder
    gaps: Gaps
    tally: Tally = field(default_factory=Tally)

    def compare(self, found: Hypothesis, expected: Hypothesis) -> None:
        """Refuse a difference that no near tie explains."""
        self.tally.n_updates += 1
        if found == expected:
            return
        pairs = zip((*found.tokens, -1), (*expected.tokens, -1), strict=False)
        first = next(n for n, (one, other) in enumerate(pairs) if one != other)
        gap = self.gaps.of[first]
        assert gap < NEAR_TIE, f"token {first} differs, {gap:.3f} apart: {found} {expected}"
        self.tally.n_near_ties += 1
        self.tally.widest = max(self.tally.widest, gap)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    def open_decoder(reuse: bool) -> Qwen3ASRDecoder:
        path: Path = tiny.BUNDLE / "decoder.gguf"
        return Qwen3ASRDecoder(path, n_threads=1, max_segment_s=LONGEST_S, reuse=reuse)

    gaps = Gaps()
    with (
        open_decoder(True) as incremental,
        open_decoder(False) as scratch,
        pytest.MonkeyPatch.context() as patch,
    ):
        bench = Bench(incremental, scratch, gaps)
        patch.setattr(decoder, "greedy", gaps.choose)
        yield bench
        tally = bench.tally
        print(
            f"\n{tally.n_updates} updates, {tally.n_near_ties} near ties, "
            f"the widest {tally.widest:.4f}"
        )
        assert tally.n_near_ties <= max(1, MAX_NEAR_TIES * tally.n_updates)


@dataclass(slots=True)
class Follower:
    """An utterance on the incremental path, as a session drives it."""

    bench: Bench
    encoder: Qwen3Encoder
    samples: Float32Array
    language: str | None
    context: str
    utterance: Utterance = field(init=False)
    embeddings: Float32Array = field(init=False)
    draft: tuple[int, ...] = ()
    forced: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.forget()

    @property
    def options(self) -> SessionOptions:
        return SessionOptions(language=self.language, context=self.context)

    def forget(self) -> None:
        """Drop all caches, as after a death of the encoder's child or an eviction."""
        self.utterance = Utterance(self.encoder)
        self.embeddings = np.empty((0, self.encoder.output_dim), np.float32)
        self.bench.incremental.release(id(self))

    def encode(self, n_samples: int) -> Float32Array:
        if n_samples > self.utterance.n_samples:
            self.utterance.append(self.samples[self.utterance.n_samples : n_samples])
        update = self.utterance.update(n_samples)
        self.embeddings = np.concatenate([self.embeddings[: update.first], update.embeddings])
        return self.embeddings

    def decode(self, n_samples: int, n_steps: int | None = None) -> Hypothesis | None:
        """Update it; None if it is abandoned after so many steps."""
        answer = self.bench.incremental.begin(
            id(self),
            Encoded(self.encode(n_samples)),
            self.options,
            forced=self.forced,
            draft=self.draft,
        )
        while not answer.is_complete and n_steps != 0:
            self.bench.incremental.step([answer])
            n_steps = None if n_steps is None else n_steps - 1
        assert answer.error is None
        return answer.result

    def from_scratch(self, n_samples: int) -> Hypothesis:
        return self.bench.scratch.decode(
            Encoded(self.encoder.encode(self.samples[:n_samples])),
            self.options,
            forced=self.forced,
        )


@st.composite
def speech(draw: st.DrawFn) -> Float32Array:
    """Some speech, that begins quiet as often as not; or anything."""
    if draw(st.booleans()):
        return draw(clips(LONGEST_S))
    names = st.sampled_from(("espeak_1", "espeak_2", "flite", "mandarin", "espeak_noise"))
    parts = [
        np.float32(draw(st.sampled_from((1e-4, 0.1, 1.0)))) * sound(draw(names)) for _ in range(3)
    ]
    return np.concatenate(parts)[: round(LONGEST_S * SAMPLE_RATE)]


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), samples=speech())
def test_the_text_of_an_update_is_that_from_scratch(
    bench: Bench, data: st.DataObject, samples: Float32Array
) -> None:
    window_s = data.draw(st.sampled_from(sorted(ENCODERS)), "window")
    language = data.draw(st.sampled_from((None, "English", "Chinese")), "language")
    context = data.draw(st.sampled_from(("", "seven, three")), "context")
    follower = Follower(bench, ENCODERS[window_s], samples, language, context)
    times = st.lists(st.integers(1, len(samples)), min_size=1, max_size=6)
    *growing, final = [*sorted(data.draw(times, "times")), len(samples)]
    if data.draw(st.booleans(), "is cut"):
        final = data.draw(st.integers(max(1, len(samples) // 2), len(samples)), "cut")
    for n_samples in (*growing, final):
        event = data.draw(st.sampled_from(("go on", "abandon", "forget", "promise")), "event")
        if event == "forget":
            follower.forget()
        if event == "promise":
            n_promised = data.draw(st.integers(len(follower.forced), len(follower.draft)))
            follower.forced = follower.draft[:n_promised]
        if event == "abandon":
            follower.decode(n_samples, n_steps=data.draw(st.integers(0, 5), "steps"))
        found = follower.decode(n_samples)
        assert found is not None
        bench.compare(found, follower.from_scratch(n_samples))
        follower.draft = found.tokens
    bench.incremental.release(id(follower))


@pytest.mark.parametrize("window_s", sorted(ENCODERS))
def test_loud_speech_after_quiet_speech_is_heard_as_from_scratch(
    bench: Bench, window_s: int
) -> None:
    quiet, loud = 1e-4 * sound("espeak_1"), sound("espeak_2")
    samples = np.concatenate([quiet, loud]).astype(np.float32)
    follower = Follower(bench, ENCODERS[window_s], samples, None, "")
    for n_samples in range(SAMPLE_RATE, len(samples), SAMPLE_RATE // 2):
        found = follower.decode(n_samples)
        assert found is not None
        bench.compare(found, follower.from_scratch(n_samples))
        follower.draft = found.tokens


def test_an_utterance_that_is_not_audio_costs_the_next_one_nothing(bench: Bench) -> None:
    samples = sound("espeak_1").copy()
    follower = Follower(bench, ENCODERS[8], samples, None, "")
    before = follower.decode(len(samples) // 2)
    follower.utterance.append(samples[len(samples) // 2 :])
    with pytest.raises(AudioError):
        follower.utterance.update(len(samples) + 1)
    assert before is not None
    follower.draft = before.tokens
    found = follower.decode(len(samples))
    assert found is not None
    bench.compare(found, follower.from_scratch(len(samples)))
