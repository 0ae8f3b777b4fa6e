"""Raw samples from a connection or a pipe to mono at SAMPLE_RATE."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamasr.audio.resample import Resampler
from streamasr.core.audio_format import MAX_CHANNELS, MAX_RATE, MIN_RATE, Encoding
from streamasr.core.errors import AudioError
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples

_DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "pcm_s16le": np.dtype("<i2"),
    "pcm_f32le": np.dtype("<f4"),
}
_FULL_SCALE: Final = {"pcm_s16le": np.float32(32768), "pcm_f32le": np.float32(1)}

LOUDEST: Final = 100.0
"""Full scale of floats is 1. Values beyond this are most likely integers sent as floats."""


class PcmDecoder:
    """Decodes bytes into samples; the sizes of the pieces make no difference.

    Channels are averaged, or one of them is chosen; soxr resamples. The result is clipped to
    -1..1, like that of a file.
    """

    def __init__(
        self,
        encoding: Encoding = "pcm_s16le",
        sample_rate: int = SAMPLE_RATE,
        channels: int = 1,
        channel: int | None = None,
    ) -> None:
        """Start a stream.

        Args:
            encoding: encoding of one value; channels are interleaved.
            sample_rate: frames per second, 8000 to 48000. A frame has one value of each channel.
            channels: number of channels, 1 to 8.
            channel: the channel to use, from 0; None averages all of them.

        Raises:
            AudioError: a value is not supported, or the channel does not exist.
        """
        if encoding not in _DTYPES:
            raise AudioError(
                f"encoding is {encoding!r}; it must be {' or '.join(_DTYPES)}.",
                code="bad_audio_format",
            )
        if not MIN_RATE <= sample_rate <= MAX_RATE:
            raise AudioError(
                f"sample_rate is {sample_rate}; it must be from {MIN_RATE} to {MAX_RATE} Hz.",
                code="bad_audio_format",
            )
        if not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(
                f"channels is {channels}; it must be from 1 to {MAX_CHANNELS}.",
                code="bad_audio_format",
            )
        self._encoding: Encoding = encoding
        self._channels = channels
        self.choose_channel(channel)
        self._frame_size = channels * _DTYPES[encoding].itemsize
        self._resampler = Resampler(sample_rate)
        self._dangling = b""
        self._n_frames = 0

    def choose_channel(self, channel: int | None) -> None:
        """Use another channel from the next bytes on.

        Args:
            channel: from 0; None averages all of them.

        Raises:
            AudioError: the audio does not have this channel.
        """
        if channel is not None and not 0 <= channel < self._channels:
            raise AudioError(
                f"channel is {channel}, but the audio has {self._channels}, counted from 0.",
                code="no_such_channel",
            )
        self._channel = channel

    @property
    def n_received(self) -> Samples:
        """Length of all whole frames so far at SAMPLE_RATE; after `finish`, the length returned.

        Before that, the resampler still holds some of them.
        """
        return Samples(round(self._n_frames * SAMPLE_RATE / self._resampler.rate))

    @property
    def n_dangling_bytes(self) -> int:
        """Bytes of an incomplete frame."""
        return len(self._dangling)

    def feed(self, data: bytes) -> Float32Array:
        """Take the next bytes.

        Returns:
            (n,), the samples that are ready; possibly none yet.

        Raises:
            AudioError: a float is NaN, infinite, or far beyond full scale. None of these bytes
                was used; the caller should end the stream.
        """
        data = self._dangling + data if self._dangling else data
        n_frames = len(data) // self._frame_size
        frames = np.frombuffer(data, _DTYPES[self._encoding], n_frames * self._channels)
        if self._encoding == "pcm_f32le":
            self._check(frames)
        self._dangling = bytes(data[n_frames * self._frame_size :])
        self._n_frames += n_frames
        return _clip(self._resampler.push(self._to_mono(frames.reshape(-1, self._channels))))

    def finish(self) -> Float32Array:
        """Return the rest (n,). An incomplete frame at the end is left out; nothing may follow."""
        return _clip(self._resampler.finish())

    def _to_mono(self, frames: npt.NDArray[Any]) -> Float32Array:
        if self._channel is not None:
            return frames[:, self._channel].astype(np.float32) / _FULL_SCALE[self._encoding]
        # Channel by channel, so that a frame's sum does not depend on how many frames came with it.
        mono = frames[:, 0].astype(np.float32)
        for channel in range(1, self._channels):
            mono += frames[:, channel].astype(np.float32)
        return mono / (_FULL_SCALE[self._encoding] * np.float32(self._channels))

    def _check(self, values: npt.NDArray[Any]) -> None:
        wrong = ~(np.abs(values.astype(np.float32)) <= LOUDEST)  # NaN is not less than anything
        if wrong.any():
            first = int(wrong.argmax())
            raise AudioError(
                f"Sample {self._n_frames + first // self._channels} is {values[first]};"
                " pcm_f32le must contain finite numbers with full scale at 1.",
                code="bad_samples",
            )


def _clip(samples: Float32Array) -> Float32Array:
    return np.clip(samples, np.float32(-1), np.float32(1))
