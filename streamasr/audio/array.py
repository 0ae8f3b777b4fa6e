"""Source of samples in memory."""

from collections.abc import Iterator

from streamasr.audio.source import BLOCK
from streamasr.core.audio_form import check_samples
from streamasr.core.units import Float32Array, to_samples, to_seconds


class SampleArray:
    """Samples of a Python program."""

    def __init__(
        self, samples: Float32Array, *, start: float = 0.0, duration: float | None = None
    ) -> None:
        """Take (n,) float32 mono samples at SAMPLE_RATE, -1..1.

        Args:
            samples: are not copied.
            start: seconds to skip first.
            duration: seconds to deliver at most; None for all.

        Raises:
            AudioError: the array has another form, or values that are not finite.
        """
        check_samples(samples)
        first = to_samples(start)
        end = None if duration is None else first + to_samples(duration)
        self._samples = samples[first:end]

    @property
    def duration(self) -> float:
        """Seconds that will be delivered."""
        return to_seconds(len(self._samples))

    def blocks(self) -> Iterator[Float32Array]:
        """Deliver the samples in blocks; see `AudioSource.blocks`."""
        for position in range(0, len(self._samples), BLOCK):
            yield self._samples[position : position + BLOCK]
