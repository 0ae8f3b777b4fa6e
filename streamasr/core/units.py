"""Sample counts and seconds.

Inside the program every position and length in time is a count of samples at
`SAMPLE_RATE`; seconds appear only on the wire, in configuration and in what
people read.
"""

from typing import TYPE_CHECKING, Final, NewType

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Float32Array = npt.NDArray[np.float32]

SAMPLE_RATE: Final = 16_000
"""Samples per second, everywhere in the program."""

Samples = NewType("Samples", int)
"""A position or a length, counted in samples from the start of the session."""


def to_samples(seconds: float) -> Samples:
    """Round a time in seconds to the nearest sample."""
    return Samples(round(seconds * SAMPLE_RATE))


def to_seconds(samples: int) -> float:
    """Turn a sample count into seconds."""
    return samples / SAMPLE_RATE


def __getattr__(name: str) -> object:
    """Load numpy when the type of arrays is first named: settings need only the other names."""
    if name != "Float32Array":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import numpy as np
    import numpy.typing as npt

    globals()[name] = npt.NDArray[np.float32]
    return globals()[name]
