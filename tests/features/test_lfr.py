"""Low frame rate: rows of several frames, centred, with the ends repeated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.units import Float32Array
from streamasr.features.lfr import row_count, stack_frames

FORMS = ((7, 6), (5, 1), (1, 1), (3, 2), (4, 3))
"""Window and shift; the first is Paraformer's, the second FSMN-VAD's."""


def numbered(n_frames: int, width: int = 2) -> Float32Array:
    """Return frames that hold their own number."""
    return np.repeat(np.arange(n_frames, dtype=np.float32)[:, None], width, axis=1)


def places(rows: Float32Array, window: int) -> list[list[int]]:
    return [[int(each) for each in row.reshape(window, -1)[:, 0]] for row in rows]


def test_rows_are_centred_and_both_ends_repeated() -> None:
    assert places(stack_frames(numbered(8), 7, 6), 7) == [
        [0, 0, 0, 0, 1, 2, 3],
        [3, 4, 5, 6, 7, 7, 7],
    ]
    assert places(stack_frames(numbered(2), 5, 1), 5) == [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1]]
    assert places(stack_frames(numbered(1), 7, 6), 7) == [[0] * 7]


@pytest.mark.parametrize(("window", "shift"), FORMS)
def test_without_frames_there_are_no_rows(window: int, shift: int) -> None:
    assert stack_frames(np.empty((0, 80), np.float32), window, shift).shape == (0, 80 * window)


@pytest.mark.parametrize(("window", "shift"), FORMS)
@given(n_frames=st.integers(1, 60))
def test_frames_stay_in_order_and_only_the_very_last_may_be_in_no_row(
    window: int, shift: int, n_frames: int
) -> None:
    rows = stack_frames(numbered(n_frames, 3), window, shift)
    assert rows.shape == (row_count(n_frames, shift), 3 * window)
    found = places(rows, window)
    reached = (len(rows) - 1) * shift - (window - 1) // 2 + window
    assert {place for row in found for place in row} == set(range(min(n_frames, reached)))
    assert n_frames - reached < shift
    assert all(row == sorted(row) for row in found)
    for number, row in enumerate(found):
        assert row[(window - 1) // 2] == number * shift  # the frame that it is centred on


@pytest.mark.parametrize(("window", "shift"), FORMS)
@given(n_frames=st.integers(1, 60), n_more=st.integers(0, 60))
def test_a_clip_that_grows_changes_only_rows_that_reach_beyond_its_end(
    window: int, shift: int, n_frames: int, n_more: int
) -> None:
    before = stack_frames(numbered(n_frames), window, shift)
    after = stack_frames(numbered(n_frames + n_more), window, shift)[: len(before)]
    changed = np.flatnonzero((before != after).any(axis=1))
    last = np.arange(len(before)) * shift - (window - 1) // 2 + window - 1
    assert set(changed) <= set(np.flatnonzero(last >= n_frames))
    assert len(changed) <= -(-window // shift)
