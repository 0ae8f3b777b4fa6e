"""Decoding of a media file to mono samples at the file's own rate, on the file's timeline.

The samples delivered follow each other without gaps, those of the file need not: sound may start
later than the picture, a recorder may have paused, a damaged packet is skipped. Such gaps are
filled with silence, so that times in the text are times in the file.
"""

import logging
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard

from streamasr.core.errors import AudioError
from streamasr.core.units import SAMPLE_RATE, Float32Array

logger = logging.getLogger(__name__)

FULL_SCALE: Final = {"s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63}
"""Value that stands for 1.0 in libav's signed formats (24 bits come left-justified in s32)."""

SMALLEST_GAP: Final = 0.1
"""Seconds; smaller differences are rounding (Matroska has milliseconds) or the codec's delay."""
LARGEST_GAP: Final = 3600.0
"""Seconds; more is a broken timestamp."""

SEEKABLE: Final = {"wav", "w64", "aiff", "caf", "flac", "mov", "mp4", "m4a", "matroska", "webm"}
"""Formats with exact timestamps after a seek: to the sample, in Matroska to about 1 ms. MP3 and
ADTS estimate them from the bit rate."""
SEEK_MARGIN: Final = 3.0
"""Seconds decoded before the target of a seek, until codecs and filters have settled."""

MISSING: Final = 1.0
"""Seconds by which a file may be shorter than its header states."""
RIFF_UNKNOWN: Final = 0x7FFF_0000
"""Sizes in a WAV header from here on, and 0, mean an unknown size: it was written to a pipe."""


class Piece(NamedTuple):
    """Consecutive samples of a file."""

    samples: Float32Array
    """(n,), mono, full scale at 1."""
    rate: int
    """Samples per second, which may change within a file."""


class Decoder:
    """Decodes one audio stream of an open file."""

    def __init__(self, path: Path, container: InputContainer, stream: AudioStream) -> None:
        self._path = path
        self._container = container
        self._stream = stream
        self._formats = set(container.format.name.split(","))
        self._time_base = stream.time_base or Fraction(1, SAMPLE_RATE)
        self._origin = Fraction(container.start_time or 0, av.time_base)
        self._position = Fraction(0)  # seconds from the start of the file, decoded or left out
        self._shift = Fraction(0)  # seconds by which implausible timestamps jumped
        self._is_settling = False  # after a seek, before its target
        self._n_damaged = 0
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all

    @property
    def position(self) -> float:
        """Seconds from the start of the file to where it is decoded."""
        return float(self._position)

    @property
    def length(self) -> float | None:
        """Seconds that the file states as its length; in some formats an estimate."""
        if self._stream.duration is not None:
            start = (self._stream.start_time or 0) * self._time_base
            late = max(Fraction(0), start - self._origin)
            return float(self._stream.duration * self._time_base + late)
        if self._container.duration is not None:
            return self._container.duration / av.time_base
        return None

    def seek(self, seconds: float) -> float:
        """Skip what lies well before a position, if the format supports exact seeking.

        Returns:
            Skipped length in whole seconds; 0 if decoding starts at the beginning.
        """
        target = math.floor(seconds - SEEK_MARGIN)
        if target <= 0 or not self._formats & SEEKABLE or target >= (self.length or math.inf):
            return 0.0
        stamp = int((target + self._origin) / self._time_base)
        try:
            self._container.seek(stamp, stream=self._stream)
        except av.error.FFmpegError:
            return 0.0
        self._position, self._is_settling = Fraction(target), True
        return float(target)

    def pieces(self) -> Iterator[Piece]:
        """Deliver all samples, in order, with silence in the gaps.

        Raises:
            AudioError: the file breaks off, or continues with values that are not sound; raised
                after everything before was delivered.
        """
        for frame in self._frames():
            gap = self._gap_before(frame)
            yield from self._silence(gap, frame.sample_rate)
            yield from self._sound(to_mono(frame)[max(0, -gap) :], frame.sample_rate)
        self._check_length()
        if self._n_damaged:
            logger.warning("%s: %d damaged packets were skipped", self._path, self._n_damaged)

    def _frames(self) -> Iterator[AudioFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.FFmpegError as error:
                raise self._broken(f"it cannot be read ({error.strerror})") from error
            yield from self._decode(packet)

    def _decode(self, packet: "Packet[AudioStream]") -> list[AudioFrame]:
        try:
            return packet.decode()
        except av.error.FFmpegError:
            self._n_damaged += 1
            return []

    def _gap_before(self, frame: AudioFrame) -> int:
        """Return the number of samples missing before a frame; negative, after a seek: to drop."""
        if frame.pts is None or frame.time_base is None:
            return 0
        time = frame.pts * frame.time_base - self._origin + self._shift
        gap = time - self._position
        if self._is_settling:
            self._is_settling = gap + Fraction(frame.samples, frame.sample_rate) <= 0
            return round(gap * frame.sample_rate)
        if abs(gap) < SMALLEST_GAP:
            return 0
        if 0 < gap < LARGEST_GAP and (self.length is None or time <= self.length):
            return round(gap * frame.sample_rate)
        self._shift -= gap
        return 0

    def _silence(self, n_samples: int, rate: int) -> Iterator[Piece]:
        """Yield silence of any length, at most a second at a time."""
        while n_samples > 0:
            n = min(n_samples, rate)
            self._position += Fraction(n, rate)
            yield Piece(np.zeros(n, np.float32), rate)
            n_samples -= n

    def _sound(self, samples: Float32Array, rate: int) -> Iterator[Piece]:
        """Yield the samples up to the first NaN or infinite value."""
        is_number = np.isfinite(samples)
        n = len(samples) if is_number.all() else int(np.argmin(is_number))
        self._position += Fraction(n, rate)
        if n:
            yield Piece(samples[:n], rate)
        if n < len(samples):
            raise self._broken("its samples are NaN or infinite")

    def _check_length(self) -> None:
        stated = self.length if self._states_length() else None
        if stated is not None and stated - self.position > MISSING:
            raise self._broken(f"its header states {stated:.1f} s")
        if "wav" in self._formats and self._path.is_file() and is_riff_cut_off(self._path):
            raise self._broken("its header states a greater length")

    def _states_length(self) -> bool:
        """Return whether the file states the length of its sound."""
        if "mp3" in self._formats:  # only the header of LAME states where the sound starts
            return bool(self._stream.start_time)
        if "matroska" in self._formats:
            return len(self._container.streams) == 1
        return bool(self._formats & SEEKABLE)

    def _broken(self, why: str) -> AudioError:
        if self._position == 0:
            return AudioError(
                f"{self._path} contains no audio: {why}; get a complete copy.", code="no_audio"
            )
        return AudioError(
            f"{self._path} breaks off at {self.position:.1f} s: {why}; everything before that was"
            " used, get a complete copy for the rest.",
            code="breaks_off",
        )


def is_riff_cut_off(path: Path) -> bool:
    """Return whether a WAV file is shorter than its header states; libav ignores this."""
    with path.open("rb") as file:
        head = file.read(8)
    if len(head) < 8 or head[:4] != b"RIFF":
        return False
    size = int.from_bytes(head[4:], "little")
    tolerance = 16  # bytes: padding, which not all programs count
    return 0 < size < RIFF_UNKNOWN and path.stat().st_size + tolerance < size + 8


def to_mono(frame: AudioFrame) -> Float32Array:
    """Average the channels of a decoded frame: (n,), full scale at 1."""
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
