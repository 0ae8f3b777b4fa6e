"""The streaming resampler: lengths, alignment, and that block sizes do not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.audio.resample import Resampler
from streamasr.core.units import SAMPLE_RATE, Float32Array
from tests.support.audio_files import tone
from tests.support.examples import examples

RATES = [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000]


def resample(samples: Float32Array, rate: int, sizes: list[int]) -> Float32Array:
    resampler = Resampler(rate)
    borders = np.cumsum(sizes)
    pieces = [resampler.push(block) for block in np.split(samples, borders)]
    return np.concatenate([*pieces, resampler.finish()])


@settings(max_examples=examples(60), deadline=None)
@given(st.sampled_from(RATES), st.integers(0, 20_000), st.lists(st.integers(0, 3000), max_size=5))
def test_length_is_exact_and_block_sizes_do_not_matter(rate: int, n: int, sizes: list[int]) -> None:
    samples = np.random.default_rng(n).uniform(-1, 1, n).astype(np.float32)
    whole = resample(samples, rate, [])
    assert len(whole) == round(n * SAMPLE_RATE / rate)
    assert resample(samples, rate, sizes).tobytes() == whole.tobytes()


def test_audio_at_our_rate_passes_untouched() -> None:
    samples = np.random.default_rng(0).uniform(-2, 2, 1000).astype(np.float32)
    assert resample(samples, SAMPLE_RATE, [17, 400]).tobytes() == samples.tobytes()


@pytest.mark.parametrize("rate", RATES)
def test_tone_keeps_its_frequency_phase_and_level(rate: int) -> None:
    ours = resample(tone(1.0, rate), rate, [100, 5000])
    middle = slice(1000, -1000)
    np.testing.assert_allclose(ours[middle], tone(1.0)[middle], atol=1e-3)


def test_what_cannot_be_kept_is_filtered_out() -> None:
    high = resample(tone(1.0, 48_000, hz=12_000), 48_000, [])
    assert np.abs(high[1000:-1000]).max() < 1e-4
