"""The samples of a growing segment; pure."""

from typing import Final

import numpy as np

from streamasr.core.units import SAMPLE_RATE, Float32Array

_FIRST_CAPACITY: Final = 4 * SAMPLE_RATE
"""Samples; most segments are as short."""


class Recording:
    """Samples that are only ever added to.

    They lie in one array that is doubled when it is full: adding costs amortised constant time per
    sample, and looking at them nothing, however long the segment has become.
    """

    def __init__(self, samples: Float32Array | None = None) -> None:
        """Begin with nothing, or with (n,) samples, which are not copied."""
        self._buffer = np.empty(0, np.float32) if samples is None else samples
        self._n_samples = len(self._buffer)

    def __len__(self) -> int:
        """How many samples there are."""
        return self._n_samples

    def append(self, samples: Float32Array) -> None:
        """Add samples (n,) at the end."""
        end = self._n_samples + len(samples)
        if end > len(self._buffer):
            grown = np.empty(max(_FIRST_CAPACITY, 2 * end), np.float32)
            grown[: self._n_samples] = self._buffer[: self._n_samples]
            self._buffer = grown
        self._buffer[self._n_samples : end] = samples
        self._n_samples = end

    def first(self, n_samples: int) -> Float32Array:
        """The first samples, all if there are fewer: a view that nobody can change any more."""
        view = self._buffer[: min(n_samples, self._n_samples)]
        view.flags.writeable = False
        return view
