"""Sample counts and seconds.

Inside the program every position and length in time is a count of samples at
`SAMPLE_RATE`; seconds appear only on the wire, in configuration and in what
people read.
"""

from typing import Final, NewType

import numpy as np
import numpy.typing as npt

SAMPLE_RATE: Final = 16_000
"""Samples per second, everywhere in the program."""

Samples = NewType("Samples", int)
"""A position or a length, counted in samples from the start of the session."""

Float32Array = npt.NDArray[np.float32]


def to_samples(seconds: float) -> Samples:
    """Round a time in seconds to the nearest sample."""
    return Samples(round(seconds * SAMPLE_RATE))


def to_seconds(samples: int) -> float:
    """Turn a sample count into seconds."""
    return samples / SAMPLE_RATE
