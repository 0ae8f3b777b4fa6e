"""Kaldi's fbank: equal to its definition for every length and level, also of a clip that grows."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import kaldi_native_fbank as knf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.errors import AudioError
from streamasr.core.units import Float32Array
from streamasr.features import fbank as module
from streamasr.features.fbank import GrowingFbank, fbank, frame_count
from tests.support.clips import clips, cuts
from tests.support.errors import raises
from tests.support.exact_fbank import ExactFbank, assert_correct_fbank
from tests.support.signals import KINDS, signal, speechlike

LENGTHS = (1, 399, 400, 401, 559, 560, 561, 719, 720, 1359, 1360, 1361, 16_000, 48_123)


@pytest.mark.parametrize("kind", [*KINDS, "speechlike"])
def test_features_equal_their_definition_around_every_edge(kind: str) -> None:
    for n_samples in LENGTHS:
        clip = speechlike(n_samples) if kind == "speechlike" else signal(kind, n_samples)
        assert_correct_fbank(fbank(clip), ExactFbank(clip))


def test_limits_are_narrow_where_a_value_is_certain() -> None:
    exact = ExactFbank(signal("noise", 16_000))
    low, high = exact.limits()
    assert np.all((low <= exact.features) & (exact.features <= high))
    assert np.median(high - low) < 1e-3


MISTAKES: dict[str, Callable[[Any], None]] = {
    "another window": lambda options: setattr(options.frame_opts, "window_type", "povey"),
    "no pre-emphasis": lambda options: setattr(options.frame_opts, "preemph_coeff", 0.0),
    "another pre-emphasis": lambda options: setattr(options.frame_opts, "preemph_coeff", 0.969),
    "the mean is kept": lambda options: setattr(options.frame_opts, "remove_dc_offset", False),
    "another lowest frequency": lambda options: setattr(options.mel_opts, "low_freq", 21.0),
    "another highest frequency": lambda options: setattr(options.mel_opts, "high_freq", 7990.0),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_no_mistake_passes_for_rounding(monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    clip = signal("steady", 4000) + signal("quiet, then loud", 4000)
    exact = ExactFbank(clip)
    assert_correct_fbank(fbank(clip), exact)

    def wrong(options: Any) -> Any:
        MISTAKES[mistake](options)
        return made(options)

    made = knf.OnlineFbank
    monkeypatch.setattr(knf, "OnlineFbank", wrong)
    with pytest.raises(AssertionError, match="outside of their limits"):
        assert_correct_fbank(fbank(clip), exact)


def test_samples_count_in_full_scale_of_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = signal("noise", 4000)
    exact = ExactFbank(clip)
    monkeypatch.setattr(module, "_FULL_SCALE", np.float32(32_700))
    with pytest.raises(AssertionError, match="outside of their limits"):
        assert_correct_fbank(fbank(clip), exact)


@given(n_samples=st.integers(1, 5000))
def test_frame_count_says_how_many_rows_come(n_samples: int) -> None:
    assert len(fbank(signal("noise", n_samples))) == frame_count(n_samples)


# All comparisons are exact: a frame is the same sum whatever is around it.


@given(data=st.data(), samples=clips(3.0))
def test_at_any_time_the_features_are_those_of_the_clip_so_far_and_of_any_beginning(
    data: st.DataObject, samples: Float32Array
) -> None:
    growing = GrowingFbank()
    for start, end in pairwise([0, *data.draw(cuts(len(samples)))]):
        growing.append(samples[start:end])
        assert growing.n_samples == end
        assert np.array_equal(growing.frames(end), fbank(samples[:end]))
    n_fewer = data.draw(st.integers(1, len(samples)))
    assert np.array_equal(growing.frames(n_fewer), fbank(samples[:n_fewer]))


def test_every_frame_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []

    class Spy:
        def __init__(self, options: Any) -> None:
            self._fbank = made(options)

        def get_frame(self, number: int) -> Float32Array:
            computed.append(number)
            frame: Float32Array = self._fbank.get_frame(number)
            return frame

        def __getattr__(self, name: str) -> Any:
            return getattr(self._fbank, name)

    made = knf.OnlineFbank
    monkeypatch.setattr(knf, "OnlineFbank", Spy)
    growing = GrowingFbank()
    for n_samples in (100, 1, 4000, 333, 8000):
        growing.append(signal("noise", n_samples))
        growing.frames(growing.n_samples)
    assert computed == list(range(frame_count(growing.n_samples)))


def test_the_features_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        fbank(signal("noise", 400))[0] = 0


def test_what_is_not_audio_is_refused() -> None:
    growing = GrowingFbank()
    with raises(AudioError, "no_audio"):
        growing.append(np.empty(0, np.float32))
    with raises(AudioError, "audio_type"):
        growing.append(np.zeros(5))  # type: ignore[arg-type]
    with raises(AudioError, "audio_not_finite"):
        growing.append(np.array([0, np.nan], np.float32))
    growing.append(np.zeros(800, np.float32))
    for n_samples in (0, 801):
        with raises(AudioError, "samples_out_of_range"):
            growing.frames(n_samples)
