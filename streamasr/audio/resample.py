"""Resampling of a stream from any rate to SAMPLE_RATE, block by block."""

import numpy as np
import soxr

from streamasr.core.units import SAMPLE_RATE, Float32Array


class Resampler:
    """Resamples a stream with soxr; audio at SAMPLE_RATE passes through unchanged.

    In all, n samples become `round(n * SAMPLE_RATE / rate)`, aligned with the input: the delay of
    the filter is compensated. The result does not depend on the sizes of the blocks.
    """

    def __init__(self, rate: int) -> None:
        """Start a stream.

        Args:
            rate: samples per second of the input.
        """
        self.rate = rate
        self._stream = (
            None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32")
        )
        self._n_in = 0
        self._n_out = 0

    def push(self, block: Float32Array) -> Float32Array:
        """Take the next samples (n,); return those that are ready (m,), possibly none yet."""
        self._n_in += len(block)
        if self._stream is None:
            return block
        return self._deliver(self._stream.resample_chunk(block))

    def finish(self) -> Float32Array:
        """Return the rest (m,)."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        rest = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        # soxr's own rounding may be off by one sample for streams of a few samples.
        n_missing = round(self._n_in * SAMPLE_RATE / self.rate) - self._n_out
        rest = rest[: max(n_missing, 0)]
        return self._deliver(np.pad(rest, (0, max(n_missing - len(rest), 0))))

    def _deliver(self, samples: Float32Array) -> Float32Array:
        self._n_out += len(samples)
        return samples
