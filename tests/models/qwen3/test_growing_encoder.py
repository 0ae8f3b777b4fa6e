"""An utterance that grows: its embeddings are those from scratch, and little is run for them."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.core.errors import AudioError
from streamasr.core.units import SAMPLE_RATE, Float32Array
from streamasr.models import tiny
from streamasr.models.onnx import OnnxOptions, OnnxSession
from streamasr.models.qwen3.encoder import Qwen3Encoder
from streamasr.models.qwen3.growing_encoder import Utterance
from tests.support.clips import clips, cuts
from tests.support.errors import raises
from tests.support.goldens import read_clip
from tests.support.signals import signal

WINDOWS_S = (1, 2, 4, 8)
ENCODERS = {
    window_s: Qwen3Encoder.from_bundle(tiny.BUNDLE, OnnxOptions(threads=1), window_s=window_s)
    for window_s in WINDOWS_S
}


class CountingSession:
    """Notes how much a graph is given at a time."""

    def __init__(self, session: OnnxSession) -> None:
        self._session = session
        self.lengths: list[int] = []

    def run(self, output: str, **inputs: Float32Array) -> Float32Array:
        result = self._session.run(output, **inputs)
        self.lengths.append(result.shape[1])
        return result


class Followed:
    """An utterance with its embeddings so far, and the runs that the last update took."""

    def __init__(self, window_s: int) -> None:
        encoder = Qwen3Encoder.from_bundle(tiny.BUNDLE, OnnxOptions(threads=1), window_s=window_s)
        counted: Any = encoder
        self.front = counted._frontend = CountingSession(encoder._frontend)
        self.back = counted._backend = CountingSession(encoder._backend)
        self.utterance = Utterance(encoder)
        self.embeddings = np.empty((0, encoder.output_dim), np.float32)

    def update(self, samples: Float32Array, n_samples: int | None = None) -> int:
        """Let it grow up to these samples, encode the first ones; the first token that changed."""
        self.front.lengths.clear()
        self.back.lengths.clear()
        if len(samples) > self.utterance.n_samples:
            self.utterance.append(samples[self.utterance.n_samples :])
        update = self.utterance.update(n_samples or len(samples))
        self.embeddings = np.concatenate([self.embeddings[: update.first], update.embeddings])
        return update.first


def speech(seconds: float) -> Float32Array:
    clip = np.concatenate([read_clip(name) for name in ("espeak_1", "flite", "espeak_2")] * 2)
    return clip[: round(seconds * SAMPLE_RATE)]


def at(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


@settings(max_examples=40)
@given(data=st.data(), samples=clips(18.0), window_s=st.sampled_from(WINDOWS_S))
def test_at_any_time_the_embeddings_are_those_from_scratch(
    data: st.DataObject, samples: Float32Array, window_s: int
) -> None:
    encoder = ENCODERS[window_s]
    utterance = Utterance(encoder)
    embeddings = np.empty((0, encoder.output_dim), np.float32)
    for start, end in pairwise([0, *data.draw(cuts(len(samples)))]):
        utterance.append(samples[start:end])
        n_samples = max(1, end - data.draw(st.sampled_from([0, 0, 1, 40, end // 3, end])))
        update = utterance.update(n_samples)
        assert update.first <= len(embeddings)
        embeddings = np.concatenate([embeddings[: update.first], update.embeddings])
        expected = encoder.encode(samples[:n_samples])
        assert embeddings.shape == expected.shape
        # Equal to the last bit where this was written, since every run has the same input.
        np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-4)


def test_an_update_costs_its_new_chunks_and_the_open_window() -> None:
    followed, samples = Followed(window_s=4), speech(13.75)
    # Loud enough from the start for a constant floor.
    samples[:SAMPLE_RATE] = signal("full scale", SAMPLE_RATE)
    followed.update(samples[: at(2.75)])
    assert (len(followed.front.lengths), followed.back.lengths) == (3, [36])
    assert followed.update(samples[: at(3.25)]) == 0  # the third is complete, a fourth begins
    assert (len(followed.front.lengths), followed.back.lengths) == (2, [43])
    assert followed.update(samples[: at(3.75)]) == 0
    assert (len(followed.front.lengths), followed.back.lengths) == (1, [49])
    assert followed.update(samples[: at(4.5)]) == 0  # closes the first window
    assert (len(followed.front.lengths), followed.back.lengths) == (2, [52, 7])
    assert followed.update(samples[: at(5.5)]) == 52
    assert (len(followed.front.lengths), followed.back.lengths) == (2, [20])
    assert followed.update(samples) == 52
    assert (len(followed.front.lengths), followed.back.lengths) == (9, [52, 52, 23])
    assert followed.update(samples) == 156  # the same again: only what is open
    assert (len(followed.front.lengths), followed.back.lengths) == (1, [23])


def test_a_shorter_end_costs_its_last_chunk_and_window() -> None:
    followed, samples = Followed(window_s=2), speech(9.0)
    samples[:SAMPLE_RATE] = signal("full scale", SAMPLE_RATE)
    followed.update(samples)
    assert followed.update(samples, at(5.5)) == 52
    assert (len(followed.front.lengths), followed.back.lengths) == (1, [20])
    assert followed.update(samples, at(4) + 40) == 52  # ends with a window: nothing to do
    assert (followed.front.lengths, followed.back.lengths) == ([], [])
    assert len(followed.embeddings) == 52
    # What the answers have lost meanwhile is attended again, from chunks that were kept.
    assert followed.update(samples, at(8) + 40) == 52
    assert (followed.front.lengths, followed.back.lengths) == ([], [26, 26])


def test_a_floor_that_moves_over_quiet_chunks_costs_exactly_these() -> None:
    followed = Followed(window_s=1)
    quiet, normal, loud = (noise(level) for level in (0.1, 1, 13))
    samples = np.concatenate([normal, quiet, normal, quiet, normal, loud, loud])
    followed.update(samples[: at(5) + 40])
    assert len(followed.front.lengths) == 5
    # The loud ones lift the floor into the quiet ones, and not up to the others.
    assert followed.update(samples[: at(6) + 40]) == 13
    assert len(followed.front.lengths) == 2 + 1
    # From the first changed one on all windows are attended again.
    assert followed.back.lengths == [13] * 5
    assert followed.update(samples) == 78
    assert len(followed.front.lengths) == 1
    # Without the loud ones the floor falls again.
    assert followed.update(samples, at(5) + 40) == 13
    assert len(followed.front.lengths) == 2
    assert np.array_equal(followed.embeddings, ENCODERS[1].encode(samples[: at(5) + 40]))


def test_a_floor_that_moves_below_everything_costs_nothing() -> None:
    followed = Followed(window_s=1)
    samples = np.concatenate([noise(1)] * 4 + [noise(5)])
    followed.update(samples[: at(4) + 40])
    assert followed.update(samples) == 52
    assert len(followed.front.lengths) == 1
    floors = [chunk.floor for chunk in followed.utterance._answered]
    assert floors[0] < floors[-1]


def noise(level: float) -> Float32Array:
    """A second; its raw features lie within 5 decades."""
    return np.float32(level) * signal("noise", SAMPLE_RATE)


def test_nothing_and_more_than_there_is_are_refused() -> None:
    utterance = Utterance(ENCODERS[8])
    with raises(AudioError, "samples_out_of_range"):
        utterance.update(0)
    utterance.append(speech(1.0))
    with raises(AudioError, "samples_out_of_range"):
        utterance.update(16_001)
    with raises(AudioError, "audio_not_finite"):
        utterance.append(np.full(10, np.nan, np.float32))
    expected = ENCODERS[8].encode(speech(1.0))
    assert np.array_equal(utterance.update(16_000).embeddings, expected)


def test_arrays_that_were_given_out_never_change() -> None:
    utterance, samples = Utterance(ENCODERS[1]), speech(6.0)
    answers: list[tuple[Float32Array, Float32Array]] = []
    for start, end in pairwise(range(0, len(samples) + 1, 8000)):
        utterance.append(samples[start:end])
        given_out = utterance.update(end).embeddings
        answers.append((given_out, given_out.copy()))
    assert all(np.array_equal(array, copy) for array, copy in answers)


@pytest.mark.parametrize("n_samples", [16_000, 16_039])
def test_a_chunk_whose_last_frame_is_provisional_is_not_kept(n_samples: int) -> None:
    followed, samples = Followed(window_s=1), speech(1.5)
    followed.update(samples[:n_samples])
    followed.update(samples[:16_040])
    assert len(followed.front.lengths) == 1
    assert followed.update(samples[:16_041]) == 13
    assert followed.front.lengths == []
