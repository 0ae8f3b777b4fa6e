"""Samples that are only ever added to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.growable import GrowingSamples


@given(st.lists(st.integers(0, 70_000), max_size=12))
def test_what_was_handed_out_stays_as_it_was(lengths: list[int]) -> None:
    samples = np.arange(sum(lengths), dtype=np.float32)
    growing, views = GrowingSamples(), []
    for n_samples in lengths:
        position = len(growing)
        growing.append(samples[position : position + n_samples])
        views.append(growing.first(len(growing)))
    assert len(growing) == len(samples)
    for end, view in zip(np.cumsum(lengths), views, strict=True):
        np.testing.assert_array_equal(view, samples[:end])


def test_there_are_no_more_samples_than_there_are() -> None:
    growing = GrowingSamples()
    assert growing.first(9).shape == (0,)
    growing.append(np.ones(3, np.float32))
    assert len(growing.first(9)) == 3
    assert len(growing.first(2)) == 2


def test_the_first_samples_are_read_only() -> None:
    growing = GrowingSamples()
    growing.append(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="read-only"):
        growing.first(3)[0] = 2.0


def test_samples_to_begin_with_are_not_copied_and_not_written_to() -> None:
    given_ones = np.ones(3, np.float32)
    growing = GrowingSamples(given_ones)
    assert np.shares_memory(growing.first(3), given_ones)
    growing.append(np.full(2, 5.0, np.float32))
    np.testing.assert_array_equal(given_ones, [1, 1, 1])
    np.testing.assert_array_equal(growing.first(9), [1, 1, 1, 5, 5])


def test_adding_a_chunk_rarely_moves_what_is_there() -> None:
    growing, arrays = GrowingSamples(), set()
    for _ in range(240):
        growing.append(np.zeros(1600, np.float32))
        arrays.add(id(growing.first(1).base))
    assert len(arrays) < 6
