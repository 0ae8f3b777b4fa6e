"""Log-mel features: equal to the reference's for every length and level, and cuttable."""

from collections.abc import Callable

import numpy as np
import pytest

from streamasr.core.errors import AudioError
from streamasr.features import log_mel as module
from streamasr.features.log_mel import (
    HOP,
    WINDOW,
    centre,
    clip_floor,
    frame_count,
    log_mel,
    mel_filters,
    normalise,
    raw_log_mel,
)
from tests.support.errors import raises
from tests.support.exact_log_mel import ExactLogMel, assert_correct
from tests.support.goldens import LOG_MEL_GOLDEN, LOG_MEL_LENGTHS, LOG_MEL_ROWS
from tests.support.rounding import DOUBLE, SINGLE
from tests.support.signals import KINDS, signal, speechlike


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.process
def test_features_equal_the_reference_around_every_hop_window_and_chunk_edge(kind: str) -> None:
    with np.load(LOG_MEL_GOLDEN) as golden:
        for n_samples in LOG_MEL_LENGTHS:
            mel = log_mel(signal(kind, n_samples))
            assert len(mel) == golden[f"{kind}/{n_samples}/n_frames"]
            exact = ExactLogMel(signal(kind, n_samples))
            assert_correct(golden[f"{kind}/{n_samples}"], exact, SINGLE, LOG_MEL_ROWS)
            assert_correct(mel, exact, DOUBLE)


def test_limits_are_narrow_where_a_value_is_certain() -> None:
    exact = ExactLogMel(signal("noise", 16_000))
    for unit_roundoff, width in ((SINGLE, 5e-5), (DOUBLE, 5e-6)):
        low, high = exact.limits(unit_roundoff)
        assert np.all((low <= exact.features) & (exact.features <= high))
        assert np.median(high - low) < width


MISTAKES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "another window": lambda patch: patch.setattr(module, "_hann", lambda: np.hanning(WINDOW)),
    "another range": lambda patch: patch.setattr(module, "DYNAMIC_RANGE", 8.001),
    "filters of another scale": lambda patch: patch.setattr(
        module, "mel_filters", lambda n_mels: 1.001 * mel_filters(n_mels)
    ),
    "one sample late": lambda patch: patch.setattr(
        module, "centre", lambda clip: np.roll(centre(clip), -1)
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_no_mistake_passes_for_rounding(monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    clip = signal("quiet, then loud", 16_000)
    exact = ExactLogMel(clip)
    assert_correct(log_mel(clip), exact, DOUBLE)
    module._filter_entries.cache_clear()
    MISTAKES[mistake](monkeypatch)
    mel = log_mel(clip)
    module._filter_entries.cache_clear()
    assert mel.shape == exact.features.shape
    for unit_roundoff in (DOUBLE, SINGLE):
        with pytest.raises(AssertionError, match="outside of their limits"):
            assert_correct(mel, exact, unit_roundoff)


def test_a_value_that_is_off_or_not_finite_is_found() -> None:
    clip = signal("noise", 16_000)
    exact = ExactLogMel(clip)
    for wrong in (1e-3, -1e-3, np.nan, np.inf):
        mel = log_mel(clip)
        mel[50, 100] += np.float32(wrong)
        with pytest.raises(AssertionError, match="row 50, mel 100"):
            assert_correct(mel, exact, SINGLE)


@pytest.mark.parametrize("n_samples", LOG_MEL_LENGTHS)
def test_frame_count_says_how_many_rows_come(n_samples: int) -> None:
    mel = log_mel(speechlike(n_samples))
    assert mel.shape == (frame_count(n_samples), 128)
    assert mel.dtype == np.float32


def test_a_short_clip_is_padded_to_half_a_second_before_the_transform() -> None:
    clip = signal("noise", 3000)
    assert np.array_equal(log_mel(clip), log_mel(np.pad(clip, (0, 5000))))


def test_silence_is_flat() -> None:
    assert np.all(log_mel(np.zeros(16_000, np.float32)) == -1.5)


def test_the_floor_lies_eight_decades_below_the_loudest_frame() -> None:
    mel = log_mel(signal("quiet, then loud", 32_000))
    assert mel.max() - mel.min() == pytest.approx(8 / 4, abs=1e-6)


def test_raw_rows_do_not_depend_on_what_is_around_their_window() -> None:
    clip = centre(speechlike(48_000))
    whole = raw_log_mel(clip)
    part = raw_log_mel(clip[100 * HOP : 149 * HOP + WINDOW])
    np.testing.assert_allclose(part, whole[100:150], rtol=0, atol=1e-6)


def test_rows_computed_in_small_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = speechlike(40_000)
    expected = log_mel(clip)
    monkeypatch.setattr(module, "_BLOCK", 7)
    np.testing.assert_allclose(log_mel(clip), expected, rtol=0, atol=1e-6)


def test_normalising_the_raw_rows_of_a_clip_gives_its_features() -> None:
    clip = speechlike(20_000)
    raw = raw_log_mel(centre(clip))
    assert np.array_equal(normalise(raw, clip_floor(raw.max())), log_mel(clip))


@pytest.mark.parametrize("n_mels", [80, 128])
def test_every_filter_has_an_area_of_one(n_mels: int) -> None:
    filters = mel_filters(n_mels)
    assert filters.shape == (201, n_mels)
    # In Hz; the narrow triangles at the bottom are sampled too coarsely to come out even.
    areas = filters.sum(axis=0) * 40
    assert areas[n_mels // 2 :] == pytest.approx(1, abs=0.1)


def test_more_bins_than_the_spectrum_can_fill_stay_at_the_floor() -> None:
    raw = raw_log_mel(centre(signal("noise", 16_000)), n_mels=256)
    is_empty = mel_filters(256).sum(axis=0) == 0
    assert is_empty.any()
    assert np.all(raw[:, is_empty] == -10)
    assert np.all(raw[:, ~is_empty] > -10)


@pytest.mark.parametrize(
    ("samples", "code"),
    [
        (np.zeros(0, np.float32), "no_audio"),
        (np.zeros(8000), "audio_type"),
        (np.zeros((2, 8000), np.float32), "audio_axes"),
        (np.full(8000, np.nan, np.float32), "audio_not_finite"),
        (np.full(8000, -np.inf, np.float32), "audio_not_finite"),
    ],
)
def test_an_array_that_is_not_audio_is_refused(samples: np.ndarray, code: str) -> None:
    with raises(AudioError, code):
        log_mel(samples)
