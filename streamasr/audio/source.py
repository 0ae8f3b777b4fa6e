"""Interface of all sources of audio with a beginning and an end."""

from collections.abc import Iterator
from typing import Protocol

from streamasr.core.units import SAMPLE_RATE, Float32Array

BLOCK = SAMPLE_RATE // 2
"""Samples in a typical block from a file or pipe, 0.5 s."""


class AudioSource(Protocol):
    """Stream of audio with a beginning and an end."""

    @property
    def duration(self) -> float | None:
        """Seconds that will be delivered; None if the source does not know."""

    def blocks(self) -> Iterator[Float32Array]:
        """Deliver the audio, once, in order.

        Yields:
            (n,) float32 mono at SAMPLE_RATE, -1..1, any n > 0.

        Raises:
            AudioError: the source broke; raised after everything readable was delivered.
        """
