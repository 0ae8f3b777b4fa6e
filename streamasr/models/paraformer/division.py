"""Division of the predictor's weights among the tokens that fired; pure.

The weights of a token rise and fall once and add up to about one. Their sum drifts: where a token
has 0.97 instead of 1, it fires with the first weight of the next token, perhaps behind a pause.
This hardly changes its embedding, but it spoils its time. Here the weights are cut into one piece
for each token, where they are small, so that the sum of each piece is close to one:

    row          0   1   2   3   4   5   6   7   8
    weight       0  .5 .47   0   0   0  .4  .6  .1     sum .97 behind row 2
    fires                                |   |         in rows 6 and 7
    pieces       [      first         ][  second  ]
    middles              |                  |

Of all divisions, dynamic programming finds the cheapest.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from streamasr.core.units import Float32Array

FloatArray = npt.NDArray[np.float64]

_CUT: Final = 0.5
"""Factor of the cost of a cut, which is the product of the weights beside it. The cost of a piece
is the square of the distance of its sum from one."""

_LEAST: Final = 0.05
"""Weight of the first row of a piece, except for the first piece."""

_LONGEST: Final = 40
"""Rows of so much weight in a piece, except for the last one: their sum is 2 or more."""


def middles(weights: Float32Array, n_tokens: int) -> FloatArray | None:
    """Return the place of each token: where it has half of its weight.

    Args:
        weights: (n_rows,), not negative, the tail included.
        n_tokens: number of tokens that fired.

    Returns:
        (n_tokens,), ascending, in rows: r to r + 1 is the row r. None if there are more tokens
        than rows of some weight.
    """
    cuts = _cuts(weights, n_tokens)
    if cuts is None:
        return None
    sums = np.concatenate([[0.0], np.cumsum(weights, dtype=np.float64)])
    before, behind = sums[cuts[:-1]], sums[cuts[1:]]
    behind[-1] = min(behind[-1], before[-1] + 1)  # the rest belongs to no token
    places = np.interp((before + behind) / 2, sums, np.arange(len(sums)))
    return np.asarray(np.maximum.accumulate(places))


def _cuts(weights: Float32Array, n_pieces: int) -> npt.NDArray[np.intp] | None:
    """Return the rows with which the pieces of the cheapest division begin, and the end."""
    rows = np.flatnonzero(weights >= _LEAST)
    rows = np.concatenate([[0], rows[rows > 0]])
    if len(rows) < n_pieces:
        return None
    weights = weights.astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(weights)])
    reached = sums[rows]
    cut_costs = _CUT * weights[rows - 1] * weights[rows]
    cut_costs[0] = 0.0
    costs = (reached[:, None] - _before(reached, -np.inf) - 1) ** 2 + cut_costs[:, None]
    best = np.where(rows > 0, np.inf, 0.0)  # cost of the pieces before each row
    origins = []
    for _ in range(n_pieces - 1):
        totals = _before(best, np.inf) + costs
        origins.append(totals.argmin(axis=1))
        best = totals.min(axis=1)
    best += np.minimum(sums[-1] - reached - 1, 0) ** 2  # the last piece may have more
    begin = int(best.argmin())
    found = [len(weights), int(rows[begin])]
    for origin in reversed(origins):
        begin += int(origin[begin]) - _LONGEST
        found.append(int(rows[begin]))
    return np.array(found[::-1])


def _before(values: FloatArray, filling: float) -> FloatArray:
    """Return the `_LONGEST` values before each; (n, _LONGEST)."""
    padded = np.concatenate([np.full(_LONGEST, filling), values])
    return sliding_window_view(padded, _LONGEST)[:-1]
