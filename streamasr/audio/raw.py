"""Source of raw samples from a pipe: 16 bit, little endian, mono, at SAMPLE_RATE."""

import logging
from collections.abc import Iterator
from typing import BinaryIO

from streamasr.audio.pcm import PcmDecoder
from streamasr.audio.source import BLOCK
from streamasr.core.errors import AudioError
from streamasr.core.units import SAMPLE_RATE, Float32Array, to_samples, to_seconds

logger = logging.getLogger(__name__)


class RawAudio:
    """Raw s16le audio from a binary stream, such as standard input.

    A live pipe is not delayed: samples are delivered as they arrive, at most a block at a time.
    """

    def __init__(
        self,
        stream: BinaryIO,
        *,
        name: str = "standard input",
        start: float = 0.0,
        duration: float | None = None,
    ) -> None:
        """Read from a stream.

        Args:
            stream: binary stream to read; it is not closed.
            name: name of the stream in messages.
            start: seconds to drop first.
            duration: seconds to deliver at most; None for all.
        """
        self._read = getattr(stream, "read1", stream.read)  # read() would wait for a full block
        self._name = name
        self._n_skip = int(to_samples(start))
        self._n_left = None if duration is None else int(to_samples(duration))

    @property
    def duration(self) -> float | None:
        """None: the length of a pipe is unknown."""
        return None

    def blocks(self) -> Iterator[Float32Array]:
        """Deliver the audio, once, in order; see `AudioSource.blocks`."""
        n_read = n_delivered = 0
        for samples in self._samples():
            n_read += len(samples)
            wanted = samples[self._n_skip :]
            self._n_skip -= len(samples) - len(wanted)
            if self._n_left is not None:
                wanted = wanted[: self._n_left]
                self._n_left -= len(wanted)
            if len(wanted):
                n_delivered += len(wanted)
                yield wanted
            if self._n_left == 0:
                return
        if n_read > 0 and n_delivered == 0:
            raise AudioError(
                f"{self._name} ends at {to_seconds(n_read):.1f} s, before the part to read.",
                code="ends_before_start",
            )
        if n_read == 0:
            raise AudioError(
                f"{self._name} contains no audio; send raw 16-bit little-endian mono samples"
                f" at {SAMPLE_RATE} Hz.",
                code="no_audio",
            )

    def _samples(self) -> Iterator[Float32Array]:
        decoder = PcmDecoder("pcm_s16le", SAMPLE_RATE, 1)
        while data := self._read(2 * BLOCK):
            yield decoder.feed(data)
        if decoder.n_dangling_bytes:
            logger.warning("%s ends in the middle of a sample; its last byte is lost", self._name)
