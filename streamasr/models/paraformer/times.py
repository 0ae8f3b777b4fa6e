"""Times of tokens, from the rows in which they fire; pure.

A model with a head for times (BiCif, SeACo) weighs every 20 ms once more; its weights are scaled so
that one token more fires than there are, and each fire is the start of a token and the end of the
one before. Without such a head, the places of the integrate-and-fire itself are used, one row being
60 ms; see `division`.

    step       0   1   2   3   4   5   6   7   8   9
    weight     0  .2  .8   0   0  .9  .1   0  .7  .3
    fires               |               |           |
    tokens           [    first    ][   second  ]         1.5 steps earlier

A token that would be longer than 12 steps ends there, and silence follows; so it is at the end,
where FunASR lets the last token reach to the middle of what remains: here it gets at most as much
as any other.

Source: `ts_prediction_lfr6_standard` of FunASR. Its constants count steps, whatever their length.

The times are those of speech only where no silence follows a token before the next one: a token
lasts until the next one begins, up to 0.7 s later. `alignment.pauses` moves the borders of words to
the pauses in the audio; that is a step of its own, so that these times can be compared with those
of FunASR.
"""

from typing import Final

import numpy as np

from streamasr.core.hypothesis import TokenTimes
from streamasr.core.units import Float32Array, Samples
from streamasr.models.paraformer.cif import FIRES_AT, IntArray, fire_rows
from streamasr.models.paraformer.division import FloatArray

_EARLIER: Final = 1.5
"""Steps from a token's start to its fire."""

_LONGEST: Final = 12
"""Steps of a token."""

_BORDER: Final = 5
"""Steps of silence behind the last fire that belong to the last token without more ado."""


def token_times(
    weights: Float32Array,
    n_tokens: int,
    step: float,
    n_samples: int,
    fires: IntArray | FloatArray | None = None,
) -> TokenTimes:
    """Return start and end of each token.

    Args:
        weights: (n_steps,), the tail included where there is one.
        n_tokens: number of tokens; one fire more is expected.
        step: samples of a step.
        n_samples: length of the audio; no time lies behind it.
        fires: places in steps at which tokens fired; if they are not one more than the tokens, or
            not given, the weights are scaled until so many fire.
    """
    if not n_tokens:
        return ()
    if fires is None or len(fires) != n_tokens + 1:
        fires = _scaled_fires(weights, n_tokens + 1)
    places = fires - _EARLIER
    ends = np.minimum(places[1:], places[:-1] + _LONGEST)
    left = len(weights) - places[-1]
    last = len(weights) if left <= _BORDER else (len(weights) + places[-1]) / 2
    ends[-1] = min(last, places[-2] + _LONGEST)
    spans = np.stack([places[:-1], ends], axis=1) * step
    whole = np.clip(np.round(spans), 0, n_samples).astype(int)
    return tuple((Samples(start), Samples(max(start, end))) for start, end in whole.tolist())


def _scaled_fires(weights: Float32Array, n_fires: int) -> IntArray:
    """Scale weights so that so many tokens fire, at most one in a step, and return where."""
    total = float(np.sum(weights, dtype=np.float64))
    if total > 0:
        scaled = weights * np.float32(n_fires / total)
    else:  # nothing is known: they are spread evenly
        scaled = np.full(len(weights), n_fires / len(weights), np.float32)
    first = fire_rows(scaled, FIRES_AT)[:n_fires]
    first = np.append(first, np.full(n_fires - len(first), len(weights) - 1))
    number = np.arange(n_fires)
    return np.minimum(np.maximum.accumulate(first - number) + number, len(weights) - 1)
