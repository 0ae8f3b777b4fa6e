"""Tolerances that follow from rounding, and near ties that it can turn over.

Tolerances do not come from the results of one processor. Values are compared with exact ones, those
of the reference in double precision. The allowed error follows from the error of the reference for
the same input in the precision that is compared: single for the encoder, half where llama.cpp
rounds to half. Both are computed where the reference is installed (tests/reference/reference.py),
or stored beside the golden arrays.
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
"""Times the largest error of the reference in single precision. Another implementation rounds the
same values as often, but adds in another order, and how errors grow with the number of terms, up to
some hundreds here, depends on the order: from its logarithm, in pairs, to its square root, one
after the other."""

HALF_MARGIN: Final = 4
"""Times the largest error of the reference with values rounded to half precision. The order of sums
plays no part in these errors; which values fall on either side of a rounding boundary does."""

HALF_LOGIT: Final = 0.02
"""The most by which half precision moves any logit of the embedded model's clips. tests/reference
holds the reference to this and the next."""

HALF_GAP: Final = 0.01
"""The most by which it moves the distance of the two highest logits."""

LOGIT_TOLERANCE: Final = 2 * HALF_LOGIT
"""Logits of two computations with the embedded model, each of which is off in its own way."""

NEAR_TIE: Final = HALF_MARGIN * HALF_GAP
"""The two most likely of the embedded model's tokens may change places if their logits are closer.
A batch of another size is enough for that."""

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
        ours: computed with keys and values in half precision, or weights as well.
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
        error: as of `assert_same_logits`.
    """
    lost = exact.max(axis=-1) - exact[np.arange(len(exact)), choices]
    assert lost.max(initial=0) <= near_tie(error), f"{lost.max():.3f} below the best"


def near_tie(error: float) -> float:
    """Return the distance of two exact logits that may change places: each moves by so much."""
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
    """Greedy choice that records the distance to the second."""

    def __init__(self) -> None:
        """Begin with no choices."""
        self.of: dict[int, float] = {}
        """Number of tokens before -> distance of the last choice there."""
        self.smallest = np.inf
        """Distances of all choices."""

    def choose(self, logits: Float32Array, n_before: int) -> int:
        """Take the place of `greedy`."""
        gap = float(gaps(logits[None])[0])
        self.of[n_before] = gap
        self.smallest = min(self.smallest, gap)
        return greedy(logits, n_before)
