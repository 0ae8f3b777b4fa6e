"""The spool: audio of a live session that no final covers yet, so that nobody has to say it again.

A session has a directory of its own with files named after their first sample, as `480000.f32`:
raw 32-bit little-endian floats, mono at SAMPLE_RATE. A file takes 30 s; it is deleted as a whole
once all of it is settled. Writes are not flushed to the disk: they survive the death of the
process, which is what happens, and not that of the kernel.
"""

import contextlib
import errno
import logging
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from streamasr.core.errors import StorageError
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples
from streamasr.storage import check_name

FILE_LENGTH: Final = Samples(30 * SAMPLE_RATE)
MAX_BYTES: Final = 256 << 20
"""Of one session: 70 minutes that no final covers."""

logger = logging.getLogger(__name__)

_WIDTH: Final = 4  # bytes of a sample
_SETTLED_PER_FILE: Final = 6
"""A file of which this part (of a full file) is settled gets a successor, so that what was said is
gone from the disk soon after its final, and not after the next half minute of speech."""

_FILE: Final = re.compile(r"([0-9]{1,15})\.f32")


class SpoolFullError(StorageError):
    """There is more audio without a final than is kept."""


@dataclass(frozen=True, slots=True, eq=False)
class Spooled:
    """What a spool holds."""

    start: Samples
    """Of the first sample; `end` where there is none."""
    end: Samples
    """Where the next sample belongs."""
    parts: list[tuple[Samples, Float32Array]]
    """Positions and samples, ordered and disjoint; what lies between them was lost."""


class Spool:
    """The writer of one session's audio.

    When a write fails, those samples are missing in the spool and the next ones go into a new
    file. When more than `max_bytes` wait for a final, the spool is full: it takes nothing more
    until `forget_before` has brought it down to half of that.
    """

    def __init__(
        self,
        directory: Path,
        position: Samples,
        max_bytes: int = MAX_BYTES,
        file_length: Samples = FILE_LENGTH,
    ) -> None:
        """Open a spool, or go on with one.

        Args:
            directory: named after the session; made where it is missing.
            position: of the next sample. What the spool holds lies before it; if not, it is of
                an earlier session, and deleted.
            max_bytes: how much it holds at most.
            file_length: after how much audio a new file is begun.

        Raises:
            StorageError: the directory cannot be made or read.
        """
        check_name(directory.name)
        self._directory = directory
        self._position = position
        self._max_bytes = max_bytes
        self._file_length = file_length
        self._file: int | None = None  # the newest, while it takes more
        self._is_full = False
        with _explained(directory):
            _make_private(directory)
            self._folder = _open_folder(directory)
            self._sizes = _sizes(self._folder)  # bytes by first sample, oldest first
            if any(start + size // _WIDTH > position for start, size in self._sizes.items()):
                logger.warning("%s holds audio of an earlier session; it is deleted", directory)
                self._delete_files(list(self._sizes))

    @property
    def position(self) -> Samples:
        """Of the next sample."""
        return self._position

    @property
    def n_bytes(self) -> int:
        """How much it holds."""
        return sum(self._sizes.values())

    @property
    def is_full(self) -> bool:
        """Nothing is taken until enough has been forgotten."""
        return self._is_full

    def append(self, samples: Float32Array) -> None:
        """Write the next samples.

        Raises:
            SpoolFullError: said once, for the first samples that are not taken.
            StorageError: they cannot be written.
        """
        start = self._position
        self._position = Samples(start + len(samples))
        if not len(samples):
            return
        if self._is_full:
            self._close_file()
            return
        if self.n_bytes + len(samples) * _WIDTH > self._max_bytes:
            self._is_full = True
            self._close_file()
            raise SpoolFullError(
                f"{self._max_bytes >> 20} MiB of audio wait for recognition in {self._directory};"
                " no more is kept."
            )
        with _explained(self._directory):
            try:
                self._write(start, np.ascontiguousarray(samples, dtype="<f4").data.cast("B"))
            except OSError:
                self._close_file()  # what is there of these samples is valid up to its end
                raise

    def skip(self, n: int) -> None:
        """Leave `n` samples out: they were lost on their way."""
        if n > 0:
            self._close_file()
            self._position = Samples(self._position + n)

    def forget_before(self, position: Samples) -> None:
        """Delete the files that hold nothing from `position` on.

        The newest file stays whatever it holds, since its end is where the session goes on.

        Raises:
            StorageError: a file cannot be deleted.
        """
        if not self._sizes:
            return
        with _explained(self._directory):
            try:
                settled = min(position, self._position) - self._newest
                if settled * _SETTLED_PER_FILE >= self._file_length:
                    self._begin_file(self._position)
            finally:  # on a full disk no file can be begun, but some can go
                self._delete_files(
                    [
                        start
                        for start, size in self._sizes.items()
                        if start != self._newest and start + size // _WIDTH <= position
                    ]
                )
        if self._is_full and self.n_bytes <= self._max_bytes // 2:
            self._is_full = False

    def close(self) -> None:
        """Close the files; they stay."""
        self._close_file()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def delete(self) -> None:
        """Close and delete everything.

        Raises:
            StorageError: it cannot be deleted.
        """
        self.close()
        delete_spool(self._directory)

    def _delete_files(self, starts: list[int]) -> None:
        for start in starts:
            os.unlink(_file_name(start), dir_fd=self._folder)
            del self._sizes[start]

    @property
    def _newest(self) -> int:
        return next(reversed(self._sizes))

    def _write(self, start: Samples, data: memoryview) -> None:
        if self._file is None or self._sizes[self._newest] >= self._file_length * _WIDTH:
            self._begin_file(start)
        assert self._file is not None
        while data:
            n = os.write(self._file, data)
            self._sizes[self._newest] += n
            data = data[n:]

    def _begin_file(self, start: Samples) -> None:
        self._close_file()
        if self._sizes and self._sizes[self._newest] < _WIDTH:
            self._delete_files([self._newest])  # nothing came of it
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(_file_name(start), flags, 0o600, dir_fd=self._folder)
        self._sizes[start] = 0

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_spool(directory: Path) -> Spooled:
    """Read what a spool holds; nothing where there is none.

    Files that are none of ours are left alone. The last sample of a file may be torn: it goes.

    Raises:
        StorageError: it cannot be read, or holds symbolic links.
    """
    check_name(directory.name)
    parts: list[tuple[Samples, Float32Array]] = []
    end = 0
    with _explained(directory):
        try:
            folder = _open_folder(directory)
        except FileNotFoundError:
            return Spooled(Samples(0), Samples(0), [])
        try:
            for start in _sizes(folder):
                if parts and start < end:  # later files know better
                    previous, samples = parts[-1]
                    parts[-1] = previous, samples[: start - previous]
                samples = _read_file(folder, start)
                end = start + len(samples)
                if len(samples):
                    parts.append((Samples(start), samples))
        finally:
            os.close(folder)
    return Spooled(parts[0][0] if parts else Samples(end), Samples(end), parts)


def delete_spool(directory: Path) -> None:
    """Delete what a spool holds, and its directory unless there is something else in it.

    Raises:
        StorageError: it cannot be deleted.
    """
    check_name(directory.name)
    with _explained(directory):
        try:
            folder = _open_folder(directory)
        except FileNotFoundError:
            return
        try:
            for start in _sizes(folder):
                os.unlink(_file_name(start), dir_fd=folder)
        finally:
            os.close(folder)
        with contextlib.suppress(OSError):
            directory.rmdir()


def spooled_sessions(root: Path) -> list[str]:
    """The names of the sessions that have a spool."""
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if _is_session(entry))
    except OSError:
        return []


def _is_session(entry: os.DirEntry[str]) -> bool:
    try:
        check_name(entry.name)
    except StorageError:
        return False
    return entry.is_dir(follow_symlinks=False)


@contextlib.contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Turn what the system says into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK}:
            raise StorageError(f"the audio in {directory} is a symbolic link.") from error
        raise StorageError(f"the audio in {directory} cannot be kept: {error.strerror}.") from error


def _make_private(directory: Path) -> None:
    root = directory.parent
    root.parent.mkdir(parents=True, exist_ok=True)
    for path in (root, directory):
        path.mkdir(mode=0o700, exist_ok=True)


def _open_folder(directory: Path) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _file_name(start: int) -> str:
    return f"{start}.f32"


def _sizes(folder: int) -> dict[int, int]:
    """Bytes of each file by its first sample, oldest first."""
    matches = filter(None, map(_FILE.fullmatch, os.listdir(folder)))
    starts = sorted(int(match[1]) for match in matches if match[0] == _file_name(int(match[1])))
    sizes = {}
    for start in starts:
        status = os.lstat(_file_name(start), dir_fd=folder)
        if stat.S_ISLNK(status.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if stat.S_ISREG(status.st_mode):
            sizes[start] = status.st_size
    return sizes


def _read_file(folder: int, start: int) -> Float32Array:
    descriptor = os.open(
        _file_name(start), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder
    )
    with open(descriptor, "rb") as file:  # noqa: PTH123 - it is open already
        content = file.read()
    whole = len(content) - len(content) % _WIDTH
    return np.frombuffer(content[:whole], dtype="<f4").astype(np.float32)
