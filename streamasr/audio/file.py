"""Audio and video files of any kind, decoded as they are read.

libav (through PyAV) demuxes and decodes; channels are averaged; soxr resamples. The result is
clipped to -1..1. (The reference front end divides a clip by its peak if that exceeds 1. The peak of
a stream is not known beforehand; only float files above full scale and resampling overshoots are
affected.)

Memory does not grow with the length of the file.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from streamasr.audio.decode import Decoder, Piece
from streamasr.audio.resample import Resampler
from streamasr.audio.source import BLOCK
from streamasr.core.errors import AudioError
from streamasr.core.units import SAMPLE_RATE, Float32Array, to_samples, to_seconds


def open_audio(path: Path, *, start: float = 0.0, duration: float | None = None) -> "AudioFile":
    """Open the audio of an audio or video file.

    Args:
        path: the file; a named pipe works too.
        start: seconds to skip at the beginning.
        duration: seconds to deliver at most; None for all.

    Returns:
        The source; a context manager that closes the file.

    Raises:
        AudioError: the file cannot be read, is not a media file, or has no sound.
    """
    if start < 0 or (duration is not None and duration <= 0):
        raise AudioError(
            f"Cannot read {path} from {start:g} s for {duration} s: the start must not be negative"
            " and the duration must be positive.",
            code="value_out_of_range",
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
        raise AudioError(
            f"Cannot open {path}: {_reason(error)}.",
            code="no_such_file" if isinstance(error, FileNotFoundError) else "cannot_open",
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{path} is a directory; name the audio files in it.", code="is_directory")
    if not os.access(path, os.R_OK):
        raise AudioError(
            f"Cannot read {path}: permission denied; check its access rights.",
            code="permission_denied",
        )
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        raise AudioError(
            f"{path} is empty (0 bytes); record or download it again.", code="empty_file"
        )


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file does not exist; check the name"
    return (error.strerror or "unknown error").lower()


def _open_container(path: Path) -> InputContainer:
    # The prefix keeps names with a colon from being read as a protocol, and the whitelist keeps
    # playlists from reaching into the network.
    try:
        return av.open(f"file:{path}", "r", options={"protocol_whitelist": "file"})
    except av.error.InvalidDataError as error:
        raise _not_media(path) from error
    except av.error.FFmpegError as error:
        raise AudioError(f"Cannot read {path}: {error.strerror}.", code="cannot_read") from error


def _not_media(path: Path) -> AudioError:
    return AudioError(
        f"{path} is not an audio or video file, or is incomplete; if another program can play it,"
        " convert it to WAV or FLAC.",
        code="not_media",
    )


def _find_audio(path: Path, container: InputContainer) -> AudioStream:
    stream = container.streams.best("audio")
    if isinstance(stream, AudioStream):
        return stream
    # libav opens text as an animation of a terminal, or as subtitles.
    if container.format.name == "tty" or not container.streams.video:
        raise _not_media(path)
    raise AudioError(
        f"{path} contains no sound; choose a file with an audio track.", code="no_audio_track"
    )


class AudioFile:
    """Audio of one file, as a source of blocks."""

    def __init__(
        self, path: Path, container: InputContainer, start: float, duration: float | None
    ) -> None:
        self._path = path
        self._container = container
        self._decoder = Decoder(path, container, _find_audio(path, container))
        self._start = to_samples(start)
        self._limit = None if duration is None else to_samples(duration)

    @property
    def duration(self) -> float | None:
        """Seconds that will be delivered, by the length that the file states; None if unknown."""
        total = self._decoder.length
        if total is None:
            return None
        rest = max(0.0, total - to_seconds(self._start))
        return rest if self._limit is None else min(rest, to_seconds(self._limit))

    def blocks(self) -> Iterator[Float32Array]:
        """Deliver the audio, once, in order; see `AudioSource.blocks`.

        A part of the file equals, to the sample, the same part of the whole. Where a seek saves
        decoding the audio before (`decode.SEEKABLE`), lossy codecs may differ in the last bits.
        """
        position = int(to_samples(self._decoder.seek(to_seconds(self._start))))
        start, n_delivered = int(self._start), 0
        for block in self._resampled():
            wanted = block[max(0, start - position) :]
            position += len(block)
            if self._limit is not None:
                wanted = wanted[: self._limit - n_delivered]
            n_delivered += len(wanted)
            if len(wanted):
                yield np.clip(wanted, -1.0, 1.0)
            if n_delivered == self._limit:
                return
        if position == 0:
            raise AudioError(
                f"{self._path} contains no audio; record or download it again.", code="no_audio"
            )
        if n_delivered == 0:
            raise AudioError(
                f"{self._path} ends at {self._decoder.position:.1f} s, before the start at"
                f" {to_seconds(start):g} s; start earlier.",
                code="ends_before_start",
            )

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

    def _resampled(self) -> Iterator[Float32Array]:
        """Yield blocks at SAMPLE_RATE; an error is raised after everything before it."""
        resampler: Resampler | None = None
        failure: AudioError | None = None
        waiting = _gathered(self._decoder.pieces())
        while True:
            try:
                piece = next(waiting)
            except StopIteration:
                break
            except AudioError as error:
                failure = error
                break
            if resampler is None or piece.rate != resampler.rate:
                if resampler is not None:
                    yield resampler.finish()
                resampler = Resampler(piece.rate)
            yield resampler.push(piece.samples)
        if resampler is not None:
            yield resampler.finish()
        if failure is not None:
            raise failure


def _gathered(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Join small pieces to about a block; an error is raised after everything before it."""
    waiting: list[Float32Array] = []
    n_waiting, rate = 0, 0
    try:
        for piece in pieces:
            if waiting and (piece.rate != rate or n_waiting * SAMPLE_RATE >= BLOCK * rate):
                yield Piece(np.concatenate(waiting), rate)
                waiting, n_waiting = [], 0
            waiting.append(piece.samples)
            n_waiting += len(piece.samples)
            rate = piece.rate
    except AudioError:
        if waiting:
            yield Piece(np.concatenate(waiting), rate)
        raise
    if waiting:
        yield Piece(np.concatenate(waiting), rate)
