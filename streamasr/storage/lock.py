"""Who uses a storage directory: one daemon, which others can find there."""

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
    """Keeps a second daemon away from the same journal, and names the first one."""

    def __init__(self, directory: Path) -> None:
        """Prepare; entering the context takes it."""
        self._path = lock_path(directory)

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"{self._path.parent} cannot be used: {error.strerror}.") from error
        try:
            self._take()
        except BlockingIOError as error:
            os.close(self._file)
            raise ConfigError(
                f"another daemon uses {self._path.parent}; stop it, or set storage.directory."
            ) from error
        except OSError as error:  # of some network file systems
            os.close(self._file)
            raise ConfigError(
                f"{self._path} cannot be locked: {error.strerror}; set storage.directory."
            ) from error
        self._leave_number()
        return self

    def _take(self) -> None:
        """Take the lock. Who only looks whether somebody has it holds it for a moment, too."""
        for _ in range(_TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(_PAUSE_S)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _leave_number(self) -> None:
        """Say who we are; a full disk is no reason not to recognise."""
        try:
            os.ftruncate(self._file, 0)  # the number there may be another program's by now
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            why = error.strerror
            logger.warning("`streamasr pause` cannot find this daemon: %s: %s", self._path, why)

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def find_daemon(directory: Path) -> int | None:
    """The process of the daemon that uses a directory; None where none is running."""
    try:
        file = os.open(lock_path(directory), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        written = os.read(file, 32).strip()
        return int(written) if written.isdigit() else None
    except OSError:  # nothing can be said where nothing can be locked
        return None
    else:
        return None
    finally:
        os.close(file)
