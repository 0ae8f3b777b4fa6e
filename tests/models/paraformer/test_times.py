"""Times of tokens: from fire to fire, within the audio, and without its pauses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from streamasr.core.units import Float32Array
from streamasr.models.paraformer.cif import fire_rows
from streamasr.models.paraformer.times import token_times

ROW = 960  # samples
STEP = 320

weights = npst.arrays(
    np.float32, st.integers(1, 200), elements=st.floats(0, 1, width=32, allow_subnormal=False)
)


def spikes(n_steps: int, *fires: int) -> Float32Array:
    found = np.zeros(n_steps, np.float32)
    found[list(fires)] = 1
    return found


def in_steps(times: tuple[tuple[int, int], ...], step: int = STEP) -> list[tuple[float, float]]:
    return [(start / step, end / step) for start, end in times]


def test_a_token_lasts_from_its_fire_to_the_next_a_bit_earlier() -> None:
    times = token_times(spikes(30, 4, 10, 20, 27), 3, STEP, 30 * STEP)
    assert in_steps(times) == [(2.5, 8.5), (8.5, 18.5), (18.5, 30)]


def test_a_pause_is_nobodys_time() -> None:
    times = token_times(spikes(200, 4, 100, 110), 2, STEP, 200 * STEP)
    assert in_steps(times) == [(2.5, 14.5), (98.5, 110.5)]


def test_the_last_token_reaches_to_the_end_or_half_of_the_way_but_no_further_than_any() -> None:
    assert in_steps(token_times(spikes(30, 4, 12), 1, STEP, 30 * STEP)) == [(2.5, 14.5)]
    assert in_steps(token_times(spikes(12, 4, 9), 1, STEP, 16 * STEP)) == [(2.5, 12)]
    assert in_steps(token_times(spikes(14, 4, 8), 1, STEP, 16 * STEP)) == [(2.5, 10.25)]


def test_nothing_lies_outside_of_the_audio() -> None:
    assert token_times(spikes(9, 0, 8), 1, STEP, 1000) == ((0, 1000),)


@pytest.mark.parametrize("n_tokens", [1, 3, 6])
def test_weights_are_scaled_where_the_fires_are_of_another_number(n_tokens: int) -> None:
    weights = np.full(70, 0.1, np.float32)
    given_fires = fire_rows(weights)
    times = token_times(weights, n_tokens, ROW, 70 * ROW, given_fires)
    assert len(times) == n_tokens
    if n_tokens == 6:  # as many as fires, less one
        assert in_steps(times, ROW)[0] == (7.5, 17.5)


def test_without_any_weight_tokens_are_spread() -> None:
    times = token_times(np.zeros(40, np.float32), 3, STEP, 40 * STEP)
    assert all(start < end for start, end in times)


def test_no_tokens_have_no_times() -> None:
    assert token_times(spikes(9, 3), 0, STEP, 1000) == ()


@given(
    weights=weights,
    n_tokens=st.integers(1, 40),
    step=st.sampled_from((STEP, ROW)),
    short=st.integers(0, 2 * ROW),
)
def test_times_are_in_order_and_within_the_audio(
    weights: Float32Array, n_tokens: int, step: int, short: int
) -> None:
    n_samples = max(1, len(weights) * step - short)
    times = token_times(weights, n_tokens, step, n_samples)
    assert len(times) == n_tokens
    borders = [border for span in times for border in span]
    assert borders == sorted(borders)
    assert all(0 <= border <= n_samples for border in borders)
    assert all(end - start <= 12 * step for start, end in times)
