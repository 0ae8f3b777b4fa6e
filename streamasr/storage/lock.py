"""Lock of a storage directory: one daemon uses it, and other programs find its PID there."""

import contextlib
import fcntl
import logging
import os
import time
from pathlib import Path
from typing import Final, Self

from streamasr.core.errors import ConfigError
from streamasr.storage.places import lock_path

logger = logging.getLogger(__name__)

_TRIES: Final = 20
_PAUSE_S: Final = 0.01


class Lock:
    """Exclusive use of a storage directory, as a context.

    Raises on entry:
        ConfigError: the directory cannot be used, or another daemon uses it.
    """

    def __init__(self, directory: Path) -> None:
        """Prepare; the lock is taken on entry."""
        self._path = lock_path(directory)

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"{self._path.parent} cannot be used: {error.strerror}; set storage.directory.",
                code="storage_unusable",
            ) from error
        try:
            self._take()
        except BlockingIOError as error:
            os.close(self._file)
            raise ConfigError(
                f"another daemon uses {self._path.parent}; stop it, or set storage.directory.",
                code="storage_in_use",
            ) from error
        except OSError as error:  # of some network file systems
            os.close(self._file)
            raise ConfigError(
                f"{self._path} cannot be locked: {error.strerror}; set storage.directory.",
                code="storage_not_lockable",
            ) from error
        self._write_pid()
        return self

    def _take(self) -> None:
        """Take the lock, with several attempts: `find_daemon` holds it for a moment, too."""
        for _ in range(_TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(_PAUSE_S)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _write_pid(self) -> None:
        """Write our PID to the lock file; a failure (disk full) is logged and ignored."""
        try:
            os.ftruncate(self._file, 0)  # the PID there may be another program's by now
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            logger.warning(
                "cannot write the PID to %s: %s; `streamasr pause` will not find this daemon",
                self._path,
                error.strerror,
            )

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def find_daemon(directory: Path) -> int | None:
    """Return the PID of the daemon that uses a directory; None if there is none."""
    try:
        file = os.open(lock_path(directory), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        written = os.read(file, 32).strip()
        return int(written) if written.isdigit() else None
    except OSError:  # the file system has no locks
        return None
    else:
        return None
    finally:
        os.close(file)
