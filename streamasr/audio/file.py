"""Audio and video files of any kind, decoded as they are read.

libav (through PyAV) demuxes and decodes; channels are averaged; soxr resamples. What comes out
is clipped to -1..1. (The reference front end divides a clip by its peak if that exceeds 1. A
stream does not know its peak; only float files above full scale and resampling overshoots are
affected.)

Nothing is kept: memory does not grow with the length of the file.
"""

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame as DecodedFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from streamasr.audio.resample import Resampler
from streamasr.audio.source import BLOCK
from streamasr.errors import AudioError
from streamasr.units import SAMPLE_RATE, Float32Array, to_samples

logger = logging.getLogger(__name__)

FULL_SCALE: Final = {"s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63}
"""Value that stands for 1.0 in libav's signed formats (24 bits come left-justified in s32)."""


def open_audio(path: Path, *, start: float = 0.0, duration: float | None = None) -> "AudioFile":
    """Open the audio of an audio or video file.

    Args:
        path: the file; a named pipe works too.
        start: seconds to leave out at the beginning.
        duration: seconds to deliver at most; None for all.

    Returns:
        The source; a context manager that closes the file.

    Raises:
        AudioError: it cannot be read, is no media file, or has no sound.
    """
    if start < 0 or (duration is not None and duration <= 0):
        raise AudioError(
            f"Cannot read {path} from {start:g} s for {duration} s: the start must not be negative"
            " and the duration must be positive."
        )
    _check_readable(path)
    container = _open_container(path)
    try:
        return AudioFile(path, container, start, duration)
    except AudioError:
        container.close()
        raise


def _check_readable(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise AudioError(f"Cannot open {path}: {_reason(error)}.") from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{path} is a directory; name the audio files in it.")
    if not os.access(path, os.R_OK):
        raise AudioError(f"Cannot read {path}: permission denied; check its access rights.")
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes); record or download it again.")


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file; check the name"
    return (error.strerror or "unknown error").lower()


def _open_container(path: Path) -> InputContainer:
    # The prefix keeps names with a colon from being read as a protocol, and the whitelist keeps
    # playlists from reaching into the network.
    try:
        return av.open(f"file:{path}", "r", options={"protocol_whitelist": "file"})
    except av.error.FFmpegError as error:
        raise AudioError(
            f"{path} is not an audio or video file, or is damaged at its beginning"
            f" ({error.strerror}); convert it to WAV or FLAC if another program can play it."
        ) from error


class AudioFile:
    """The audio of one file, as a source of blocks."""

    def __init__(
        self,
        path: Path,
        container: InputContainer,
        start: float,
        duration: float | None,
    ) -> None:
        stream = container.streams.best("audio")
        if not isinstance(stream, AudioStream):
            raise AudioError(f"{path} contains no sound; choose a file with an audio track.")
        self._path = path
        self._container = container
        self._stream = stream
        self._start = to_samples(start)
        self._limit = None if duration is None else to_samples(duration)
        self._position = 0.0  # seconds decoded

    @property
    def duration(self) -> float | None:
        """Seconds that will be delivered, as far as the file says."""
        total = self._claimed_duration()
        if total is None:
            return None
        rest = max(0.0, total - self._start / SAMPLE_RATE)
        return rest if self._limit is None else min(rest, self._limit / SAMPLE_RATE)

    def blocks(self) -> Iterator[Float32Array]:
        """The audio, once, in order; see `AudioSource.blocks`."""
        n_skip, n_left = int(self._start), self._limit
        for block in self._resampled():
            wanted = block[n_skip:]
            n_skip -= len(block) - len(wanted)
            if n_left is not None:
                wanted = wanted[:n_left]
                n_left = type(n_left)(n_left - len(wanted))
            if len(wanted):
                yield np.clip(wanted, -1.0, 1.0)
            if n_left == 0:
                return

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _claimed_duration(self) -> float | None:
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        if self._container.duration is not None:
            return self._container.duration / av.time_base
        return None

    def _resampled(self) -> Iterator[Float32Array]:
        """Blocks at SAMPLE_RATE; a failure comes after everything before it."""
        resampler: Resampler | None = None
        failure: AudioError | None = None
        decoded = self._decoded()
        while True:
            try:
                mono, rate = next(decoded)
            except StopIteration:
                break
            except AudioError as error:
                failure = error
                break
            if resampler is None or rate != resampler.rate:
                if resampler is not None:
                    yield resampler.finish()
                resampler = Resampler(rate)
            yield resampler.push(mono)
        if resampler is not None:
            yield resampler.finish()
        if failure is not None:
            raise failure
        if resampler is None:
            raise AudioError(f"{self._path} contains no audio that can be decoded.")

    def _decoded(self) -> Iterator[tuple[Float32Array, int]]:
        """Mono samples at the file's own rate, about a block at a time, and that rate."""
        waiting: list[Float32Array] = []
        n_waiting, rate = 0, 0
        for frame in self._frames():
            if frame.sample_rate != rate or n_waiting * SAMPLE_RATE >= BLOCK * rate:
                if waiting:
                    yield np.concatenate(waiting), rate
                waiting, n_waiting, rate = [], 0, frame.sample_rate
            mono = _to_mono(frame)
            if not np.isfinite(mono).all():
                if waiting:
                    yield np.concatenate(waiting), rate
                raise self._broken("contains samples that are not numbers (NaN or infinite)")
            waiting.append(mono)
            n_waiting += len(mono)
            self._position += len(mono) / rate
        if waiting:
            yield np.concatenate(waiting), rate

    def _frames(self) -> Iterator[DecodedFrame]:
        n_skipped = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except av.error.FFmpegError as error:
                raise self._broken(f"cannot be read further ({error.strerror})") from error
            try:
                frames = self._stream.decode(packet)
            except av.error.FFmpegError:
                n_skipped += 1
                continue
            yield from frames
        if n_skipped:
            logger.warning("%s: %d damaged packets were left out", self._path, n_skipped)

    def _broken(self, what: str) -> AudioError:
        return AudioError(
            f"{self._path} {what} at {self._position:.1f} s; what comes before was used."
        )


def _to_mono(frame: DecodedFrame) -> Float32Array:
    """Average the channels of a decoded frame: (n,) float32, full scale at 1."""
    values: npt.NDArray[Any] = frame.to_ndarray()
    if frame.format.is_packed:
        values = values.reshape(-1, len(frame.layout.channels)).T
    kind = frame.format.packed.name
    if kind == "u8":
        values = (values.astype(np.float32) - 128) / 128
    elif kind in FULL_SCALE:
        values = values.astype(np.float32) / np.float32(FULL_SCALE[kind])
    mono: Float32Array = values[0] if len(values) == 1 else values.mean(axis=0)
    return mono.astype(np.float32, copy=False)
