"""Log-mel features computed from their definition, with limits for rounding errors.

The features are computed here in double precision, by a direct Fourier sum and a plain loop over
the mel filters, without using `streamasr.features`. An implementation in a given precision is
correct if each of its values lies within the limits, on any processor and with any order of
additions.

u is the unit roundoff, 2^-24 in single precision; second-order terms are neglected. Analyses of
this kind are in Higham, "Accuracy and Stability of Numerical Algorithms", chapters 3 and 24.

Window: 1/2 - 1/2 cos(t), t up to 2 pi. Two roundings of t give t |sin t| u, at most 4.9 u; the
cosine to one unit in the last place gives u, and the subtraction u: `_WINDOW` u altogether.

Fourier transform: every output is a sum of the samples, each multiplied by factors of modulus one.
A bound for all fast algorithms is the number of roundings on the path from one sample to one
output, times u, times the sum of magnitudes. 400 = 2^4 5^2 requires six passes, and one more for
real input. A twiddle factor costs 4 roundings (itself and a complex product); adding two terms
costs 1, adding five and multiplying them by the constants of the butterfly 6, and up to sqrt(2)
times as much if real and imaginary parts have different paths: `_TRANSFORM` roundings in total.

Together, the error of an output y for a frame x with the window w is at most

    e = u sum_j (_WINDOW + (1 + _TRANSFORM) w_j) |x_j|.

Power: at most (|y| + e)^2, plus `_POWER` roundings for a square root to one unit in the last place
and its square. Mel power: weights are positive, so adding n products costs n + 1 roundings of the
result, including that of the weights.

Width: the logarithm converts relative errors to absolute ones. If the power of a bin is nearly zero
compared with others in its frame, e is relatively large and the limits are wide: a constant
tolerance that is sufficient for these few values would be too large for all others. For noise in
single precision, half the width is 2e-5 at the median and 4e-2 at most.

Result: the logarithm, -10 to 10, to four units in the last place, the floor below the maximum, the
shift and the scale are `_RESULT` roundings of 1 in total. Both implementations compute this part in
single precision, and the limits are not changed by the maxima.
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from streamasr.core.units import Float32Array
from tests.support.rounding import DOUBLE, SINGLE

Float64Array = npt.NDArray[np.float64]

_WINDOW: Final = 7
_TRANSFORM: Final = 56
_POWER: Final = 6
_RESULT: Final = 25  # (10 * 8 for the logarithm + 10 for the floor + 10 for the shift) / 4

_LENGTH: Final = 400  # samples in a frame
_N_BINS: Final = _LENGTH // 2 + 1
_ANGLES: Final = 2 * np.pi / _LENGTH * np.arange(_LENGTH)


class ExactLogMel:
    """Exact features of one clip."""

    def __init__(self, samples: Float32Array, n_mels: int = 128) -> None:
        """Compute powers in double precision."""
        padded = np.pad(samples.astype(np.float64), (0, max(0, 8000 - len(samples))))
        n_frames = len(padded) // 160
        reflected = np.pad(padded, _LENGTH // 2, mode="reflect")
        frames = np.stack([reflected[160 * i : 160 * i + _LENGTH] for i in range(n_frames)])
        window = 0.5 - 0.5 * np.cos(_ANGLES)
        self._magnitude = np.hypot(*(frames * window @ wave for wave in _waves()))
        self._filters = _filters(n_mels)
        self.features = _normalise(self._magnitude**2 @ self._filters)
        self._under_window = np.abs(frames) @ window
        self._plain = np.abs(frames).sum(axis=1)

    def limits(self, unit_roundoff: float) -> tuple[Float64Array, Float64Array]:
        """Return the lowest and the highest correct values.

        Args:
            unit_roundoff: precision of all computations before the logarithm.

        Returns:
            Two arrays of (n_frames, n_mels).
        """
        roundings = _WINDOW * self._plain + (1 + _TRANSFORM) * self._under_window
        # The direct sum above has its own error.
        own = DOUBLE * (_WINDOW * self._plain + (1 + _LENGTH) * self._under_window)
        error = (unit_roundoff * roundings + own)[:, None]
        lowest = np.maximum(0, self._magnitude - error) ** 2 @ self._filters
        highest = (self._magnitude + error) ** 2 @ self._filters
        n_terms = np.count_nonzero(self._filters, axis=0)
        relative = (unit_roundoff + DOUBLE) * (_POWER + n_terms + 1)
        low = _normalise(lowest * (1 - relative)) - _RESULT * SINGLE
        high = _normalise(highest * (1 + relative)) + _RESULT * SINGLE
        return low, high


def assert_correct(
    features: Float32Array,
    exact: ExactLogMel,
    unit_roundoff: float,
    rows: list[int] | slice = slice(None),
) -> None:
    """Assert that features are correct except for rounding errors.

    Args:
        features: (n_frames, n_mels), or some of its rows.
        exact: exact features of the same clip.
        unit_roundoff: precision of the implementation before the logarithm.
        rows: indices of the given rows.
    """
    low, high = (limit[rows] for limit in exact.limits(unit_roundoff))
    assert features.shape == low.shape
    outside = (features < low) | (features > high) | ~np.isfinite(features)
    if outside.any():
        row, mel = np.argwhere(outside)[0]
        raise AssertionError(
            f"{outside.sum()} of {outside.size} values are outside of their limits, first that of "
            f"row {row}, mel {mel}: {features[row, mel]:.7f} is not between {low[row, mel]:.7f} "
            f"and {high[row, mel]:.7f}"
        )


def _normalise(power: Float64Array) -> Float64Array:
    logarithm = np.log10(np.maximum(power, 1e-10))
    return np.asarray((np.maximum(logarithm, logarithm.max() - 8) + 4) / 4)


@cache
def _waves() -> tuple[Float64Array, Float64Array]:
    """Return cosines and sines, (samples, bins) each."""
    turns = np.outer(np.arange(_LENGTH), np.arange(_N_BINS)) % _LENGTH
    return np.cos(_ANGLES)[turns], np.sin(_ANGLES)[turns]


@cache
def _filters(n_mels: int) -> Float64Array:
    """Return the triangular filters of Slaney's scale, (bins, mels), each with an area of 1 Hz."""
    top = 15 + np.log(8000 / 1000) / np.log(6.4) * 27
    edges = [_hertz(top * i / (n_mels + 1)) for i in range(n_mels + 2)]
    filters = np.zeros((_N_BINS, n_mels))
    for mel in range(n_mels):
        low, peak, high = edges[mel : mel + 3]
        for number in range(_N_BINS):
            hertz = 16_000 / _LENGTH * number
            if low < hertz < high:
                side = (hertz - low) / (peak - low), (high - hertz) / (high - peak)
                filters[number, mel] = min(side) * 2 / (high - low)
    return filters


def _hertz(mel: float) -> float:
    """Return a frequency: linear up to 1 kHz, at mel 15, and logarithmic above."""
    return float(200 / 3 * mel if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27))
