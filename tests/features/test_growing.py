"""Log-mel features of a clip that grows: those of the clip so far at any time, at a small price."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.errors import AudioError
from streamasr.core.units import Float32Array
from streamasr.features import growing
from streamasr.features.growing import GrowingLogMel, RawClip, settled_frames
from streamasr.features.log_mel import HOP, frame_count, log_mel, normalise, raw_log_mel
from tests.support.clips import clips, cuts
from tests.support.errors import raises
from tests.support.goldens import LOG_MEL_LENGTHS
from tests.support.signals import speechlike


def features(clip: RawClip) -> Float32Array:
    return normalise(clip.rows(0, clip.n_frames), clip.floor)


def grown(samples: Float32Array, ends: list[int]) -> GrowingLogMel:
    mel = GrowingLogMel()
    for start, end in pairwise([0, *ends]):
        mel.append(samples[start:end])
    return mel


# All comparisons are exact: a row is the same sum with any rows beside it.


@given(data=st.data(), samples=clips(4.0))
def test_at_any_time_the_features_are_those_of_the_clip_so_far_and_of_any_beginning(
    data: st.DataObject, samples: Float32Array
) -> None:
    mel = GrowingLogMel()
    for start, end in pairwise([0, *data.draw(cuts(len(samples)))]):
        mel.append(samples[start:end])
        assert mel.n_samples == end
        assert np.array_equal(features(mel.clip(end)), log_mel(samples[:end]))
    n_fewer = data.draw(st.integers(1, len(samples)))
    assert np.array_equal(features(mel.clip(n_fewer)), log_mel(samples[:n_fewer]))


@pytest.mark.parametrize("n_samples", LOG_MEL_LENGTHS)
def test_around_every_edge_the_features_are_the_same_however_much_more_has_come(
    n_samples: int,
) -> None:
    samples = speechlike(n_samples + 9000)
    expected = log_mel(samples[:n_samples])
    alone = grown(samples, [n_samples])
    longer = grown(samples, [len(samples)])
    assert np.array_equal(features(alone.clip(n_samples)), expected)
    assert np.array_equal(features(longer.clip(n_samples)), expected)


@given(n_samples=st.integers(1, 10_000), n_more=st.integers(1, 10_000))
def test_settled_frames_stay_and_hardly_any_other_is_left(n_samples: int, n_more: int) -> None:
    n_settled = settled_frames(n_samples)
    assert n_settled <= settled_frames(n_samples + n_more)
    assert n_settled <= frame_count(n_samples)
    if n_samples >= 8000:
        assert frame_count(n_samples) - n_settled == (n_samples % HOP < 40)
    samples = speechlike(n_samples + n_more)
    one, other = grown(samples, [n_samples]), grown(samples, [len(samples)])
    settled = one.clip(n_samples).settled
    assert len(settled) == n_settled
    assert np.array_equal(settled, other.clip(len(samples)).settled[:n_settled])


def test_rows_across_the_last_settled_one_come_in_one_piece() -> None:
    samples = speechlike(8001)
    clip = grown(samples, [8001]).clip(8001)
    assert (len(clip.settled), len(clip.provisional), clip.n_frames) == (49, 1, 50)
    whole = clip.rows(0, 50)
    for start in range(51):
        for stop in (start, 48, 49, 50, 99):
            assert np.array_equal(clip.rows(start, stop), whole[start:stop])


def test_a_frame_is_transformed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    n_transformed = 0

    def count(samples: Float32Array, n_mels: int) -> Float32Array:
        nonlocal n_transformed
        rows = raw_log_mel(samples, n_mels)
        n_transformed += len(rows)
        return rows

    monkeypatch.setattr(growing, "raw_log_mel", count)
    samples = speechlike(160_000)
    mel = GrowingLogMel()
    for end in range(8000, 160_001, 8000):
        before = n_transformed
        mel.append(samples[end - 8000 : end])
        mel.clip(end)
        # Half a second is 50 frames; some few at the end and before the first one are extra.
        assert n_transformed - before <= 50 + 6
    before = n_transformed
    for n_samples in range(80_000, 160_000, 1111):
        mel.clip(n_samples)
        assert n_transformed - before <= 3
        before = n_transformed


def test_samples_may_come_one_by_one() -> None:
    samples = speechlike(1000)
    mel = grown(samples, list(range(1, 1001)))
    assert np.array_equal(features(mel.clip(1000)), log_mel(samples))


def test_a_block_that_is_refused_leaves_no_trace() -> None:
    samples = speechlike(9000)
    mel = grown(samples, [8500])
    for block in (np.full(9, np.nan, np.float32), np.zeros(9), np.zeros((1, 9), np.float32)):
        with pytest.raises(AudioError):
            mel.append(block)  # type: ignore[arg-type] # the point of it
    mel.append(samples[8500:])
    assert np.array_equal(features(mel.clip(9000)), log_mel(samples))


@pytest.mark.parametrize("n_samples", [-1, 0, 8001])
def test_what_is_not_there_is_refused(n_samples: int) -> None:
    mel = grown(speechlike(8000), [8000])
    with raises(AudioError, "samples_out_of_range"):
        mel.clip(n_samples)
