"""Formats of raw audio on a wire or in a pipe."""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from streamasr.core.units import SAMPLE_RATE

Encoding: TypeAlias = Literal["pcm_s16le", "pcm_f32le"]

SAMPLE_BYTES: Final[dict[Encoding, int]] = {"pcm_s16le": 2, "pcm_f32le": 4}
"""Bytes of one value of one channel."""

MIN_RATE: Final = 8_000
MAX_RATE: Final = 48_000
MAX_CHANNELS: Final = 8


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """Encoding of raw audio; channels are interleaved."""

    encoding: Encoding = "pcm_s16le"
    sample_rate: int = SAMPLE_RATE
    channels: int = 1

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return SAMPLE_BYTES[self.encoding] * self.channels
