"""Atomic creation and removal of directories, safe against concurrent processes."""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from streamasr.core.errors import ConfigError, ModelError

PARTIAL: Final = ".streamasr-partial"
"""Suffix of the names of directories that are incomplete, or being removed."""


@contextmanager
def atomic_directory(destination: Path, *, replaces: bool = False) -> Iterator[Path]:
    """Create a temporary directory that is renamed to the destination on success, else removed.

    Leftovers of killed processes are removed, too.

    Args:
        destination: the directory.
        replaces: whether it may exist already; then it is replaced.

    Raises:
        ConfigError: the destination exists already, or cannot be written.
        ModelError: a file outside of the directory cannot be read.
    """
    if destination.exists() and not replaces:
        raise _exists(destination)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(destination.parent)
        partial, held = _begin(destination)
    except OSError as error:
        raise ConfigError(
            f"{destination} cannot be created ({error.strerror}).", code="directory_not_made"
        ) from error
    try:
        yield partial
        _put(partial, destination, replaces=replaces)
    except OSError as error:
        if error.filename and partial not in Path(os.fsdecode(error.filename)).parents:
            raise ModelError(
                f"{error.filename} cannot be read ({error.strerror}).", code="file_unreadable"
            ) from error
        raise ConfigError(
            f"{destination} cannot be written ({error.strerror}).", code="directory_not_writable"
        ) from error
    finally:
        os.close(held)
        shutil.rmtree(partial, ignore_errors=True)


def _begin(destination: Path) -> tuple[Path, int]:
    """Create a partial directory and lock it; the lock ends with the process."""
    while True:
        partial = _beside(destination)
        partial.mkdir()
        held = os.open(partial, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        if partial.exists():  # another process may have removed it as a leftover before the lock
            return partial, held
        os.close(held)


def _beside(destination: Path) -> Path:
    name = f".{destination.name}.{secrets.token_hex(4)}{PARTIAL}"
    return destination.with_name(name)


def remove_leftovers(parent: Path) -> None:
    """Remove partial directories whose processes have ended."""
    for path in parent.glob(f".*{PARTIAL}"):
        with suppress(OSError):
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(held)


def remove_directory(directory: Path) -> None:
    """Remove a directory atomically for other processes.

    Raises:
        OSError: the directory cannot be removed.
    """
    doomed = _beside(directory)
    directory.rename(doomed)
    shutil.rmtree(doomed)


def _put(partial: Path, destination: Path, *, replaces: bool) -> None:
    if replaces and destination.exists():
        remove_directory(destination)
    try:
        partial.rename(destination)
    except OSError as error:
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY}:
            raise _exists(destination) from error
        raise


def _exists(destination: Path) -> ConfigError:
    return ConfigError(
        f"{destination} exists already; remove it or choose another name.",
        code="destination_exists",
    )
