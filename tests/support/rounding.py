"""Tolerances for rounding errors, and near ties of choices that rounding may decide.

Tolerances do not depend on the results of one processor. Values are compared with exact ones, those
of the reference in double precision. The allowed error follows from the reference's own error for
the same input in the compared precision: single for the encoder, and half where llama.cpp rounds to
half. Both are computed if the reference is available (tests/reference/reference.py), or stored
beside the golden arrays.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamasr.core.units import Float32Array
from streamasr.decoder.batching import greedy

SINGLE: Final = 2.0**-24
DOUBLE: Final = 2.0**-53
"""Unit roundoffs."""

SINGLE_MARGIN: Final = 16
"""Factor on the largest error of the reference in single precision. Another implementation rounds
the same values equally often, but adds in another order, and the growth of errors with the number
of terms, up to some hundreds here, depends on the order: from its logarithm, for sums in pairs, to
its square root, for sums one after the other."""

HALF_MARGIN: Final = 4
"""Factor on the largest error of the reference with values rounded to half precision. These errors
do not depend on the order of sums, but on the side of a rounding boundary on which values fall."""

HALF_LOGIT: Final = 0.02
"""Largest change of a logit by half precision for the embedded model's clips. tests/reference
checks that the reference satisfies this and the next limit."""

HALF_GAP: Final = 0.01
"""Largest change of the distance of the two highest logits by half precision."""

LOGIT_TOLERANCE: Final = 2 * HALF_LOGIT
"""Largest difference of the logits of two computations with the embedded model, each of which has
its own error."""

NEAR_TIE: Final = HALF_MARGIN * HALF_GAP
"""Distance of logits below which the two most likely tokens of the embedded model may change
places. A batch of another size is sufficient for that."""

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]


def assert_same(ours: FloatArray, exact: FloatArray, error: float) -> None:
    """Compare activations with exact ones.

    Args:
        ours: computed in single precision.
        exact: the same shape.
        error: largest error of the reference in single precision.
    """
    assert ours.shape == exact.shape
    np.testing.assert_allclose(ours, exact, rtol=0, atol=SINGLE_MARGIN * error)


def assert_same_logits(ours: FloatArray, exact: FloatArray, error: float) -> None:
    """Compare logits with exact ones.

    Args:
        ours: computed with keys and values in half precision, or also with weights in it.
        exact: the same shape.
        error: largest error of the reference in that precision.
    """
    assert ours.shape == exact.shape
    np.testing.assert_allclose(ours, exact, rtol=0, atol=HALF_MARGIN * error)


def assert_chosen(choices: IntArray, exact: FloatArray, error: float) -> None:
    """Compare choices with the highest exact logits; only a near tie excuses another choice.

    Args:
        choices: (n,).
        exact: (n, n_choices), the logits.
        error: as for `assert_same_logits`.
    """
    lost = exact.max(axis=-1) - exact[np.arange(len(exact)), choices]
    assert lost.max(initial=0) <= near_tie(error), f"{lost.max():.3f} below the best"


def near_tie(error: float) -> float:
    """Return the distance of two exact logits below which they may change places."""
    return 2 * HALF_MARGIN * error


def gaps(logits: FloatArray) -> FloatArray:
    """Return the distances of the two highest logits: (n, n_choices) to (n,)."""
    second, first = np.partition(logits, -2)[..., -2:].T
    return np.asarray(first - second)


def gap_errors(rounded: FloatArray, exact: FloatArray) -> FloatArray:
    """Return how far rounding moves the distances of the two highest exact logits."""
    best = np.argsort(exact, axis=-1)[:, -2:]
    second, first = np.take_along_axis(rounded, best, axis=-1).T
    return np.asarray(np.abs(first - second - gaps(exact)))


class Gaps:
    """Greedy decoder that records the distances of the two highest logits."""

    def __init__(self) -> None:
        """Start without any choices."""
        self.of: dict[int, float] = {}
        """Distance for the last choice by the number of tokens before it."""
        self.smallest = np.inf
        """Smallest distance of all choices."""

    def choose(self, logits: Float32Array, n_before: int) -> int:
        """Choose a token in place of `greedy`."""
        gap = float(gaps(logits[None])[0])
        self.of[n_before] = gap
        self.smallest = min(self.smallest, gap)
        return greedy(logits, n_before)
