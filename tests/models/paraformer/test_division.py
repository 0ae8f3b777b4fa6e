"""Division of CIF weights among tokens: it does not drift, and agrees with the fires else."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from streamasr.core.units import Float32Array
from streamasr.models.paraformer.cif import fire_rows
from streamasr.models.paraformer.division import _cuts, middles

weights = npst.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.floats(0, 1, width=32, allow_subnormal=False),
)


def bumps(places: list[float], sums: list[float], n_rows: int) -> Float32Array:
    """Return weights of tokens that are spread over two rows each, around a place."""
    grid = np.arange(n_rows + 1)
    total = np.zeros(n_rows + 1)
    for place, each in zip(places, sums, strict=True):
        total += each * np.clip((grid - place + 1) / 2, 0, 1)
    return np.diff(total).astype(np.float32)


def found(weights: Float32Array, n_tokens: int) -> list[float]:
    places = middles(weights, n_tokens)
    assert places is not None
    return list(places)


def test_a_token_lies_where_it_has_half_of_its_weight() -> None:
    places = [3.0, 9.4, 12.9, 25.0]
    assert found(bumps(places, [1.0] * 4, 30), 4) == pytest.approx(places, abs=1e-5)


@pytest.mark.parametrize("each", [0.93, 1.07])
def test_places_do_not_drift_with_the_sum(each: float) -> None:
    places = [4.0 + 7.3 * number for number in range(20)]
    given_weights = bumps(places, [each] * 20, 150)
    assert found(given_weights, 20) == pytest.approx(places, abs=0.1)
    fires = fire_rows(given_weights)
    assert np.abs(fires[:20] - places[: len(fires)]).max() > 2  # rows: what is avoided


def test_tokens_without_a_gap_are_divided_by_their_sums() -> None:
    assert found(np.full(40, 0.25, np.float32), 10) == pytest.approx(np.arange(2, 40, 4))


def test_what_is_left_at_the_end_belongs_to_no_token() -> None:
    assert found(np.array([0.5, 0.5, 0.5, 0.5, 0.5], np.float32), 2) == [1, 3]


def test_more_tokens_than_rows_have_no_division() -> None:
    assert middles(np.full(3, 2, np.float32), 4) is None
    assert middles(np.array([0, 0, 0.04, 2], np.float32), 3) is None


def test_a_long_silence_does_no_harm() -> None:
    places = [5.0, 700.0, 990.0]
    assert found(bumps(places, [1.0] * 3, 1000), 3) == pytest.approx(places, abs=1e-3)


@given(weights=weights, data=st.data())
def test_places_are_in_order_and_within_the_rows(
    weights: Float32Array, data: st.DataObject
) -> None:
    n_tokens = data.draw(st.integers(1, len(weights)))
    places = middles(weights, n_tokens)
    if places is None:
        assert (weights >= 0.05).sum() < n_tokens
        return
    assert len(places) == n_tokens
    assert np.all(np.diff(places) >= 0)
    assert np.all((places >= 0) & (places <= len(weights)))


@given(
    weights=npst.arrays(
        np.float32, st.integers(2, 9), elements=st.sampled_from((0.1, 0.2, 0.4, 0.7, 1.0))
    ),
    data=st.data(),
)
def test_no_division_is_cheaper(weights: Float32Array, data: st.DataObject) -> None:
    n_tokens = data.draw(st.integers(1, len(weights)))

    def cost(cuts: list[int]) -> float:
        pieces = [weights[a:b].sum(dtype=float) for a, b in pairwise(cuts)]
        short = min(pieces[-1] - 1, 0) ** 2
        beside = sum(0.5 * float(weights[cut - 1]) * float(weights[cut]) for cut in cuts[1:-1])
        return float(sum((piece - 1) ** 2 for piece in pieces[:-1]) + short + beside)

    chosen = _cuts(weights, n_tokens)
    assert chosen is not None
    least = min(
        cost([0, *inner, len(weights)])
        for inner in combinations(range(1, len(weights)), n_tokens - 1)
    )
    assert cost(chosen.tolist()) == pytest.approx(least, abs=1e-6)
