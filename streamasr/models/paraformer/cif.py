"""Continuous integrate-and-fire (CIF): one embedding per token, out of rows with weights; pure.

The predictor gives each encoded row a weight, and the weights of a word's rows add up to about
one. They are integrated from the first row on; each time the sum passes one, a token fires. Its
embedding is the sum of the rows since the last token, times their weights; the weight of the row in
which it fires is divided between it and the next token:

    weights    0.3  0.6  0.4  0.1  0.9     sum 0.3 0.9 1.3 1.4 2.3
    token 0    0.3  0.6  0.1
    token 1              0.3  0.1  0.6     the last 0.3 is dropped

A row of zeros with a fixed weight follows the last one (the tail), so that a word fires whose
weight is nearly complete.

Source: Dong and Xu 2020, "CIF: Continuous integrate-and-fire for end-to-end speech recognition";
`CifPredictorV2` and `cif_v1` of FunASR. As there, sums are formed in double precision and compared
with whole numbers in single precision: a sum that misses one by less than its rounding fires.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from streamasr.core.units import Float32Array

FIRES_AT: Final = 1 - 1e-4
"""Weight from which FunASR counts a fire where it looks for times."""

IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Fired:
    """Tokens that fired."""

    acoustic: Float32Array
    """(n_tokens, width), the embedding of each."""
    rows: IntArray
    """(n_tokens,), the row in which each fired; n_rows for the tail."""


def fire(encoded: Float32Array, weights: Float32Array, tail: float) -> Fired:
    """Integrate rows and fire tokens.

    Args:
        encoded: (n_rows, width).
        weights: (n_rows,), not negative.
        tail: weight of the row of zeros behind the last one.
    """
    weights = with_tail(weights, tail)
    padded = np.concatenate([encoded, np.zeros_like(encoded[:1])]).astype(np.float64)
    rows = fire_rows(weights)
    excess = np.cumsum(weights, dtype=np.float64)[rows] - np.arange(1, len(rows) + 1)
    weighted = np.cumsum(weights[:, None] * padded, axis=0)
    up_to_fire = weighted[rows] - excess[:, None] * padded[rows]
    return Fired(np.diff(up_to_fire, axis=0, prepend=0).astype(np.float32), rows)


def with_tail(weights: Float32Array, tail: float) -> Float32Array:
    """Return weights with that of the row behind the last one."""
    return np.append(weights, np.float32(tail))


def fire_rows(weights: Float32Array, threshold: float = 1.0) -> IntArray:
    """Return the rows in which tokens fire, ascending; several in a row of great weight.

    Args:
        weights: (n_rows,), the tail included where there is one.
        threshold: weight of a token.
    """
    sums = (np.cumsum(weights, dtype=np.float64) / threshold).astype(np.float32)
    n_fires = int(sums[-1]) if len(sums) else 0
    return np.searchsorted(sums, np.arange(1, n_fires + 1, dtype=np.float32))
