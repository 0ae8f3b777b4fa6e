"""Kaldi's fbank computed from its definition, with limits for rounding errors.

As `exact_log_mel`, for `streamasr.features.fbank`: in double precision, by a direct Fourier sum,
without using that module. u is the unit roundoff of single precision, 2^-24, in which
`kaldi-native-fbank` and `funasr` compute; second-order terms are neglected.

Frame: the mean of 400 samples, added one after the other, is wrong by at most 400 u times the mean
magnitude. It is the same for all samples, and of anything that is, pre-emphasis leaves 0.03. Taking
the mean away, and pre-emphasis with its rounded factor, are `_EMPHASIS` roundings of the terms. The
window is computed in double precision and rounded: 2 roundings with the product.

Fourier transform: 512 = 2^9 takes nine passes and one for real input, each a complex product with a
rounded factor and an addition, 5 roundings, and up to sqrt(2) times as much if real and imaginary
part have different paths: `_TRANSFORM`.

Filters: their edges are mel values up to 2840, computed in single precision with about four
roundings of that size and divided by the distance of two edges: every weight, also that of a bin
just outside of its triangle, is wrong by at most `_WEIGHT`.

Power and logarithm: as in `exact_log_mel`; the logarithm is at most 32.
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from streamasr.core.units import Float32Array
from tests.support.rounding import DOUBLE, SINGLE

Float64Array = npt.NDArray[np.float64]

_LENGTH: Final = 400  # samples in a frame
_N_POINTS: Final = 512
_N_BINS: Final = _N_POINTS // 2  # the last one, half the sampling rate, is in no filter

_EMPHASIS: Final = 5
_TRANSFORM: Final = 71
_WEIGHT: Final = 4 * 2840 / (2808 / 81) * SINGLE
_POWER: Final = 6
_RESULT: Final = 4 * 32
_FLOOR: Final = 2.0**-23


class ExactFbank:
    """Exact features of one clip."""

    def __init__(self, samples: Float32Array, n_mels: int = 80) -> None:
        """Compute powers in double precision."""
        scaled = samples.astype(np.float64) * 32_768
        n_frames = max(0, (len(scaled) - _LENGTH) // 160 + 1)
        places = 160 * np.arange(n_frames)[:, None] + np.arange(_LENGTH)
        frames = scaled[places]
        level = frames - frames.mean(axis=1, keepdims=True)
        before = np.concatenate([level[:, :1], level[:, :-1]], axis=1)
        window = 0.54 - 0.46 * np.cos(2 * np.pi / (_LENGTH - 1) * np.arange(_LENGTH))
        emphasised = (level - 0.97 * before) * window
        self._magnitude = np.hypot(*(emphasised @ wave for wave in _waves()))
        self._low, self._filters, self._high = _filters(n_mels)
        self.features = _log(self._magnitude**2 @ self._filters)
        terms = (np.abs(level) + 0.97 * np.abs(before)) @ window
        mean = np.abs(frames).mean(axis=1) * window.sum()
        self._before_transform = (_EMPHASIS + 2) * terms + 0.03 * _LENGTH * mean + mean
        self._transformed = np.abs(emphasised).sum(axis=1)

    def limits(self) -> tuple[Float64Array, Float64Array]:
        """Return the lowest and the highest values that are correct in single precision.

        Returns:
            Two arrays of (n_frames, n_mels).
        """
        own = DOUBLE * _LENGTH * (self._before_transform + self._transformed)
        error = SINGLE * (self._before_transform + _TRANSFORM * self._transformed) + own
        lowest = np.maximum(0, self._magnitude - error[:, None]) ** 2 @ self._low
        highest = (self._magnitude + error[:, None]) ** 2 @ self._high
        n_terms = np.count_nonzero(self._high, axis=0)
        relative = SINGLE * (_POWER + n_terms + 1)
        low = _log(lowest * (1 - relative)) - _RESULT * SINGLE
        high = _log(highest * (1 + relative)) + _RESULT * SINGLE
        return low, high


def assert_correct_fbank(features: Float32Array, exact: ExactFbank) -> None:
    """Assert that features, (n_frames, n_mels), are correct except for rounding errors."""
    low, high = exact.limits()
    assert features.shape == low.shape
    outside = (features < low) | (features > high) | ~np.isfinite(features)
    if outside.any():
        row, mel = np.argwhere(outside)[0]
        raise AssertionError(
            f"{outside.sum()} of {outside.size} values are outside of their limits, first that of "
            f"row {row}, mel {mel}: {features[row, mel]:.7f} is not between {low[row, mel]:.7f} "
            f"and {high[row, mel]:.7f}"
        )


def _log(power: Float64Array) -> Float64Array:
    return np.log(np.maximum(power, _FLOOR))


@cache
def _waves() -> tuple[Float64Array, Float64Array]:
    """Return cosines and sines, (samples, bins) each."""
    turns = np.outer(np.arange(_LENGTH), np.arange(_N_BINS)) % _N_POINTS
    angles = 2 * np.pi / _N_POINTS * np.arange(_N_POINTS)
    return np.cos(angles)[turns], np.sin(angles)[turns]


@cache
def _filters(n_mels: int) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return the lowest, the exact and the highest weights, (bins, mels) each."""
    bottom, top = _mel(20), _mel(8000)
    step = (top - bottom) / (n_mels + 1)
    centres = bottom + step * np.arange(1, n_mels + 1)
    mels = np.array([_mel(16_000 / _N_POINTS * number) for number in range(_N_BINS)])
    weights = 1 - np.abs(mels[:, None] - centres) / step
    low, exact, high = (np.maximum(0, weights + wrong) for wrong in (-_WEIGHT, 0, _WEIGHT))
    return low, exact, high


def _mel(hertz: float) -> float:
    return float(1127 * np.log1p(hertz / 700))
