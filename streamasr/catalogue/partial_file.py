"""A file that is being downloaded.

The downloaded part is in `FILE.partial`, and its version in `FILE.partial.json` beside it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from streamasr.core.errors import ConfigError, DownloadError
from streamasr.core.sizes import size_text
from streamasr.importing.tensors import Progress

_PIECE: Final = 1 << 17

CHECKING: Final = "checking earlier downloads"
"""Description for `progress` while files of an earlier call are read, one or many."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that was downloaded completely."""

    path: Path
    size: int
    sha256: str


def already_there(path: Path, sha256: str, progress: Progress) -> Downloaded | None:
    """Return the file, if it exists with this hash.

    Raises:
        ConfigError: the file cannot be read.
    """
    with _on_disk(path):
        if not path.is_file():
            return None
        size = path.stat().st_size
        with path.open("rb") as file:
            found = _hash(file.fileno(), size, progress).hexdigest()
    return Downloaded(path, size, sha256) if found == sha256 else None


class PartialFile:
    """The downloaded part of a file, locked by one process at a time."""

    def __init__(self, path: Path, url: str, progress: Progress) -> None:
        self._final = path
        self._path = path.with_name(f"{path.name}.partial")
        self._note = path.with_name(f"{path.name}.partial.json")
        self._url = url
        self._progress = progress
        self._fd = -1
        self.position = 0
        """Number of downloaded bytes."""
        self.furthest = 0
        """Greatest number of downloaded bytes so far."""
        self.version: str | None = None
        self.is_patchwork = False
        """Whether the bytes came through several connections."""

    def __enter__(self) -> Self:
        """Continue the part of an earlier call, if there is one."""
        with _on_disk(self._path):
            self._fd = self._open()
            try:
                self.position = self.furthest = os.lseek(self._fd, 0, os.SEEK_END)
                self.is_patchwork = self.position > 0
                self.version = self._noted_version()
                self._digest = _hash(self._fd, self.position, self._progress)
            except BaseException:
                os.close(self._fd)
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _on_disk(self._path):
            if self._fd >= 0 and self.position == 0 and kind is not None:
                self._path.unlink(missing_ok=True)
                self._note.unlink(missing_ok=True)
            self._close()

    def _open(self) -> int:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The process that held the lock may have renamed the file just now.
                if os.path.samestat(os.fstat(fd), self._path.lstat()):
                    return fd
            except FileNotFoundError:
                pass
            except BlockingIOError as error:
                os.close(fd)
                raise DownloadError(
                    f"{self._final} is being fetched by another process.", code="download_locked"
                ) from error
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _noted_version(self) -> str | None:
        try:
            note = json.loads(self._note.read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(note, dict) or note.get("url") != self._url:
            return None
        version = note.get("version")
        return version if isinstance(version, str) and version.isprintable() else None

    @property
    def sha256(self) -> str:
        """Hash of the downloaded bytes."""
        return self._digest.hexdigest()

    def begin(self, version: str | None) -> None:
        """Note the version of the file that is downloaded from its beginning now."""
        self.version = version
        with _on_disk(self._note):
            if version is None:
                self._note.unlink(missing_ok=True)
            else:
                self._note.write_text(json.dumps({"url": self._url, "version": version}), "utf-8")

    def write(self, piece: bytes) -> None:
        """Append bytes."""
        rest = memoryview(piece)
        with _on_disk(self._final):
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        self._digest.update(piece)
        self.position += len(piece)
        self.furthest = max(self.furthest, self.position)

    def restart(self) -> None:
        """Drop the downloaded bytes."""
        with _on_disk(self._path):
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        self.begin(None)
        self._digest = hashlib.sha256()
        self.position = 0
        self.is_patchwork = False

    def check_room(self, total: int) -> None:
        """Check that the disk has room for the file, before it is written.

        Raises:
            ConfigError: the disk has too little free space.
        """
        with _on_disk(self._final):
            free = shutil.disk_usage(self._final.parent).free
        if total - self.position > free:
            raise ConfigError(
                f"{self._final.parent}: {size_text(total - self.position)} are to be written, and "
                f"only {size_text(free)} are free; free some space, or set storage.models.",
                code="disk_full",
            )

    def remove(self) -> None:
        """Delete the downloaded bytes."""
        with _on_disk(self._path):
            self._path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)
            self._close()

    def finish(self) -> Downloaded:
        """Give the file its final name."""
        with _on_disk(self._final):
            os.fsync(self._fd)
            self._path.replace(self._final)
            self._note.unlink(missing_ok=True)
            self._close()
        return Downloaded(self._final, self.position, self.sha256)

    def _close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def _hash(fd: int, size: int, progress: Progress) -> "hashlib._Hash":
    """Return the hash of an open file, which is then read to its end."""
    digest, done = hashlib.sha256(), 0
    os.lseek(fd, 0, os.SEEK_SET)
    while done < size and (piece := os.read(fd, min(_PIECE, size - done))):
        digest.update(piece)
        done += len(piece)
        progress(CHECKING, done, size)
    return digest


@contextlib.contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    """Turn errors of the file system into a `ConfigError`.

    Raises:
        ConfigError: a file cannot be read or written.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}.", code="file_not_written"
        ) from error
