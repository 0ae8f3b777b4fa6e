"""What all sources of audio have in common."""

from collections.abc import Iterator
from typing import Protocol

from streamasr.core.units import SAMPLE_RATE, Float32Array

BLOCK = SAMPLE_RATE // 2
"""Samples in a typical block from a file or pipe, 0.5 s."""


class AudioSource(Protocol):
    """A stream of audio with a beginning and an end."""

    @property
    def duration(self) -> float | None:
        """Seconds that will be delivered, as far as the source knows beforehand."""

    def blocks(self) -> Iterator[Float32Array]:
        """The audio, once, in order.

        Yields:
            (n,) float32 mono at SAMPLE_RATE, -1..1, any n > 0.

        Raises:
            AudioError: after everything that could be read was delivered: the source broke.
        """
