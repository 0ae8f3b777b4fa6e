"""Integrate-and-fire: tokens fire where the sum of weights passes a whole number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from streamasr.core.units import Float32Array
from streamasr.models.paraformer.cif import fire, fire_rows

weights = npst.arrays(
    np.float32, st.integers(1, 60), elements=st.floats(0, 1, width=32, allow_subnormal=False)
)
tails = st.sampled_from((0.0, 0.45))


def one_after_another(encoded: Float32Array, weights: Float32Array, tail: float) -> Float32Array:
    """Integrate and fire by the definition: a loop over rows, in double precision."""
    rows = [*encoded.astype(np.float64), np.zeros(encoded.shape[1])]
    fired, since, total = [], np.zeros(encoded.shape[1]), 0.0
    for row, weight in zip(rows, [*weights.tolist(), tail], strict=True):
        if total + weight < 1 - 2**-25:  # what rounds to one in single precision is one
            since, total = since + weight * row, total + weight
        else:
            fired.append(since + (1 - total) * row)
            total += weight - 1
            since = total * row
    return np.array(fired, np.float32).reshape(-1, encoded.shape[1])


def test_a_token_is_the_rows_since_the_last_one() -> None:
    encoded = np.array([[1], [10], [100], [1000], [10_000]], np.float32)
    fired = fire(encoded, np.array([0.3, 0.6, 0.4, 0.1, 0.9], np.float32), tail=0.0)
    assert fired.rows.tolist() == [2, 4]
    expected = np.array([[0.3 + 6 + 10], [30 + 100 + 6000]])
    np.testing.assert_allclose(fired.acoustic, expected, rtol=1e-6)


@pytest.mark.parametrize(("last", "rows"), [(0.54, [1]), (0.56, [1, 4])])
def test_a_word_that_is_nearly_complete_fires_with_the_tail(last: float, rows: list[int]) -> None:
    weights = np.array([0.5, 0.5, last / 2, last / 2], np.float32)
    fired = fire(np.ones((4, 2), np.float32), weights, tail=0.45)
    assert fired.rows.tolist() == rows
    if len(rows) > 1:  # the row of the tail is zero, and its weight counts all the same
        np.testing.assert_allclose(fired.acoustic[-1], last, rtol=1e-6)


def test_weights_that_miss_one_by_their_rounding_fire() -> None:
    assert fire_rows(np.array([0.9, 0.1], np.float32)).tolist() == [1]
    assert fire_rows(np.full(10, 0.1, np.float32)).tolist() == [9]
    assert fire_rows(np.array([0.9, 0.0999], np.float32)).tolist() == []


def test_without_rows_nothing_fires() -> None:
    assert len(fire_rows(np.empty(0, np.float32))) == 0
    assert fire(np.empty((0, 3), np.float32), np.empty(0, np.float32), 0.45).acoustic.shape == (
        0,
        3,
    )


@given(weights=weights, tail=tails)
def test_tokens_are_those_of_the_definition(weights: Float32Array, tail: float) -> None:
    encoded = np.random.default_rng(len(weights)).normal(size=(len(weights), 4)).astype(np.float32)
    fired = fire(encoded, weights, tail)
    expected = one_after_another(encoded, weights, tail)
    assert fired.acoustic.shape == expected.shape
    np.testing.assert_allclose(fired.acoustic, expected, atol=1e-5)


@given(weights=weights, tail=tails)
def test_every_token_has_a_weight_of_one_and_less_than_one_is_dropped(
    weights: Float32Array, tail: float
) -> None:
    total = float(np.sum(weights, dtype=np.float64)) + float(np.float32(tail))
    fired = fire(np.ones((len(weights), 1), np.float32), weights, tail)
    n_tokens = len(fired.rows)
    assert n_tokens - 1e-6 <= total < n_tokens + 1
    assert np.all(np.diff(fired.rows) > 0)
    inside = fired.rows < len(weights)
    np.testing.assert_allclose(fired.acoustic[inside, 0], 1, atol=1e-6)
    assert np.count_nonzero(~inside) <= 1


@given(weights=weights, more=weights)
def test_rows_that_follow_change_no_token_that_fired(
    weights: Float32Array, more: Float32Array
) -> None:
    size = len(weights) + len(more), 3
    encoded = np.random.default_rng(0).normal(size=size).astype(np.float32)
    before = fire(encoded[: len(weights)], weights, tail=0.0)
    after = fire(encoded, np.concatenate([weights, more]), tail=0.0)
    n_tokens = len(before.rows)
    assert np.array_equal(after.rows[:n_tokens], before.rows)
    np.testing.assert_allclose(after.acoustic[:n_tokens], before.acoustic, atol=1e-6)
