"""The spool: audio of a live session without a final, kept so that a restart does not lose it.

A session has a directory of its own with files named after their first sample, as `480000.f32`:
raw 32-bit little-endian floats, mono at SAMPLE_RATE. A file takes 30 s; it is deleted as a whole
once all of it is settled. Writes are not flushed to the disk: they survive the death of the
process, but not of the kernel.
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
"""Of one session: 70 minutes without a final."""

logger = logging.getLogger(__name__)

_WIDTH: Final = 4  # bytes of a sample
_SETTLED_PER_FILE: Final = 6
"""A file of which this part (of a full file) is settled gets a successor, so that audio is deleted
soon after its final, and not after the next half minute of speech."""

_FILE: Final = re.compile(r"([0-9]{1,15})\.f32")


class SpoolFullError(StorageError):
    """More audio waits for its final than is kept."""

    default_code = "spool_full"


@dataclass(frozen=True, slots=True, eq=False)
class Spooled:
    """Content of a spool."""

    start: Samples
    """Position of the first sample; `end` if the spool is empty."""
    end: Samples
    """Position of the next sample."""
    parts: list[tuple[Samples, Float32Array]]
    """Positions and samples, ordered and disjoint; the audio between them was lost."""


class Spool:
    """Writer of one session's audio.

    When a write fails, those samples are missing in the spool and the next ones go into a new
    file. When more than `max_bytes` wait for a final, the spool is full: it drops samples until
    `forget_before` has brought it down to half of that.
    """

    def __init__(
        self,
        directory: Path,
        position: Samples,
        max_bytes: int = MAX_BYTES,
        file_length: Samples = FILE_LENGTH,
    ) -> None:
        """Open a new or an existing spool.

        Args:
            directory: named after the session; created where it is missing.
            position: of the next sample. Audio behind it is of an earlier session: then the
                content of the spool is deleted.
            max_bytes: greatest size of all files.
            file_length: greatest length of one file.

        Raises:
            StorageError: the directory cannot be created or read.
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
                logger.warning("%s contains audio of an earlier session; deleting it", directory)
                self._delete_files(list(self._sizes))

    @property
    def position(self) -> Samples:
        """Position of the next sample."""
        return self._position

    @property
    def n_bytes(self) -> int:
        """Size of all files."""
        return sum(self._sizes.values())

    @property
    def is_full(self) -> bool:
        """True while samples are dropped, until enough has been forgotten."""
        return self._is_full

    def append(self, samples: Float32Array) -> None:
        """Write the next samples.

        Raises:
            SpoolFullError: the spool has just become full, and drops these samples; it drops the
                next ones without an error.
            StorageError: the samples cannot be written.
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
                " new audio is not kept."
            )
        with _explained(self._directory):
            try:
                self._write(start, np.ascontiguousarray(samples, dtype="<f4").data.cast("B"))
            except OSError:
                self._close_file()  # the part of these samples that was written is valid
                raise

    def skip(self, n: int) -> None:
        """Leave `n` samples out that were lost."""
        if n > 0:
            self._close_file()
            self._position = Samples(self._position + n)

    def forget_before(self, position: Samples) -> None:
        """Delete the files that end before `position`.

        The newest file always stays, since its end is where the session continues.

        Raises:
            StorageError: a file cannot be deleted, or its successor not created.
        """
        if not self._sizes:
            return
        with _explained(self._directory):
            try:
                settled = min(position, self._position) - self._newest
                if settled * _SETTLED_PER_FILE >= self._file_length:
                    self._begin_file(self._position)
            finally:  # on a full disk files cannot be created, but deleted
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
        """Close the files, without deleting them."""
        self._close_file()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def delete(self) -> None:
        """Close and delete all files.

        Raises:
            StorageError: a file cannot be deleted.
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
            self._delete_files([self._newest])  # less than one sample was written
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(_file_name(start), flags, 0o600, dir_fd=self._folder)
        self._sizes[start] = 0

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_spool(directory: Path) -> Spooled:
    """Read a spool; a missing one is empty.

    Foreign files are ignored. The last sample of a file may be incomplete, and is then left out.

    Raises:
        StorageError: the spool cannot be read, or contains symbolic links.
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
                if parts and start < end:  # later files win
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
    """Delete the files of a spool, and its directory unless it contains foreign files.

    Raises:
        StorageError: a file cannot be deleted.
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
    """Return the names of the sessions that have a spool."""
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
    """Turn errors of the file system into a `StorageError` of one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK}:
            raise StorageError(
                f"the audio in {directory} is a symbolic link; remove it.",
                code="spool_symbolic_link",
            ) from error
        raise StorageError(
            f"the audio in {directory} cannot be kept: {error.strerror}.", code="spool_unusable"
        ) from error


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
    """Return the bytes of each file by its first sample, oldest first."""
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
