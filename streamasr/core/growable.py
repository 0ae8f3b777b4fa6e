"""Arrays that only grow; pure."""

from typing import Final

import numpy as np

from streamasr.core.units import SAMPLE_RATE, Float32Array

_FIRST_CAPACITY: Final = 4 * SAMPLE_RATE
"""Samples; most segments are as short."""


class GrowingArray:
    """Rows that are only ever added at the end.

    They lie in one array that is doubled when it is full: adding costs amortised constant time per
    row, and a view of them costs nothing, however many they have become.
    """

    def __init__(self, *width: int, first_capacity: int = 1024) -> None:
        """Begin without rows.

        Args:
            width: shape of a row; none for plain numbers.
            first_capacity: rows for which memory is taken at first.
        """
        self._first_capacity = first_capacity
        self._buffer = np.empty((0, *width), np.float32)
        self._n_rows = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._n_rows

    @property
    def values(self) -> Float32Array:
        """Return a view of all rows."""
        return self._buffer[: self._n_rows]

    def append(self, values: Float32Array) -> None:
        """Add rows at the end."""
        end = self._n_rows + len(values)
        if end > len(self._buffer):
            capacity = max(self._first_capacity, 2 * end)
            grown = np.empty((capacity, *self._buffer.shape[1:]), np.float32)
            grown[: self._n_rows] = self.values
            self._buffer = grown
        self._buffer[self._n_rows : end] = values
        self._n_rows = end


class GrowingSamples(GrowingArray):
    """The samples of a growing segment."""

    def __init__(self, samples: Float32Array | None = None) -> None:
        """Begin without samples, or with (n,) samples, which are not copied."""
        super().__init__(first_capacity=_FIRST_CAPACITY)
        if samples is not None:
            self._buffer, self._n_rows = samples, len(samples)

    def first(self, n_samples: int) -> Float32Array:
        """Return a read-only view of the first samples, or of all if there are fewer."""
        view = self._buffer[: min(n_samples, self._n_rows)]
        view.flags.writeable = False
        return view
