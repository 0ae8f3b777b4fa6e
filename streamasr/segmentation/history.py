"""Buffer of the last few seconds of a stream, addressed by position."""

import numpy as np

from streamasr.core.units import Float32Array, Samples


class SampleHistory:
    """Recent samples of a stream; older samples are dropped on request.

    The samples lie in one array that is twice as large as what is usually kept, so that they are
    rarely moved to its front: appending costs amortised constant time per sample.
    """

    def __init__(self, capacity: int, position: Samples = Samples(0)) -> None:  # noqa: B008 - an int
        """Allocate space for about `capacity` samples; the first one is at `position`."""
        self._buffer: Float32Array = np.empty(max(capacity, 1), np.float32)
        self._first = 0  # index in the buffer of the oldest sample kept
        self._stop = 0  # index behind the newest
        self._end = position

    @property
    def start(self) -> Samples:
        """Position of the oldest sample kept."""
        return Samples(self._end - (self._stop - self._first))

    @property
    def end(self) -> Samples:
        """Position after the newest sample."""
        return self._end

    def append(self, samples: Float32Array) -> None:
        """Add samples (n,) at the end."""
        if self._stop + len(samples) > len(self._buffer):
            self._make_room(len(samples))
        self._buffer[self._stop : self._stop + len(samples)] = samples
        self._stop += len(samples)
        self._end = Samples(self._end + len(samples))

    def skip(self, n_samples: int) -> None:
        """Drop everything; the next sample is `n_samples` later."""
        self._first = self._stop
        self._end = Samples(self._end + n_samples)

    def forget_before(self, position: int) -> None:
        """Drop the samples before a position, which may have been dropped already."""
        self._first = max(self._first, min(self._stop, self._index(position)))

    def copy(self, start: int, end: int) -> Float32Array:
        """Return a copy of the samples [start, end).

        Raises:
            IndexError: some of the samples were dropped or have not been added yet.
        """
        if not self.start <= start <= end <= self.end:
            raise IndexError(f"[{start}, {end}) is not within [{self.start}, {self.end})")
        return self._buffer[self._index(start) : self._index(end)].copy()

    def _index(self, position: int) -> int:
        return position - self._end + self._stop

    def _make_room(self, n_samples: int) -> None:
        kept = self._buffer[self._first : self._stop]
        needed = len(kept) + n_samples
        target = self._buffer
        if 2 * needed > len(target):
            target = np.empty(2 * needed, np.float32)
        target[: len(kept)] = kept.copy() if target is self._buffer else kept
        self._buffer, self._first, self._stop = target, 0, len(kept)
