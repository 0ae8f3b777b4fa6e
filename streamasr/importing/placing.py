"""Making a directory whole or not at all, beside others who do the same."""

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
"""Ending of the names of directories that are not whole yet, or no longer."""


@contextmanager
def whole_or_nothing(destination: Path, *, replaces: bool = False) -> Iterator[Path]:
    """Make a directory that becomes the destination when all has gone well, and else vanishes.

    What killed processes have left of their tries is removed.

    Args:
        destination: the directory.
        replaces: whether it may exist already; then it is replaced.

    Raises:
        ConfigError: the destination exists already, or cannot be written.
        ModelError: another file, which was to be read, cannot be.
    """
    if destination.exists() and not replaces:
        raise _exists(destination)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(destination.parent)
        partial, held = _begin(destination)
    except OSError as error:
        raise ConfigError(f"{destination}: cannot be made ({error.strerror}).") from error
    try:
        yield partial
        _put(partial, destination, replaces=replaces)
    except OSError as error:
        if error.filename and partial not in Path(os.fsdecode(error.filename)).parents:
            raise ModelError(f"{error.filename} cannot be read ({error.strerror}).") from error
        raise ConfigError(f"{destination}: cannot be written ({error.strerror}).") from error
    finally:
        os.close(held)
        shutil.rmtree(partial, ignore_errors=True)


def _begin(destination: Path) -> tuple[Path, int]:
    """Make a partial directory, and hold a lock on it: of a process that is gone, nobody does."""
    while True:
        partial = _beside(destination)
        partial.mkdir()
        held = os.open(partial, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        if partial.exists():  # nobody has taken it for a leftover before it was locked
            return partial, held
        os.close(held)


def _beside(destination: Path) -> Path:
    name = f".{destination.name}.{secrets.token_hex(4)}{PARTIAL}"
    return destination.with_name(name)


def remove_leftovers(parent: Path) -> None:
    """Remove what nobody is working on any more."""
    for path in parent.glob(f".*{PARTIAL}"):
        with suppress(OSError):
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(held)


def remove_whole(directory: Path) -> None:
    """Remove a directory in one step as others see it.

    Raises:
        OSError: it cannot be removed.
    """
    doomed = _beside(directory)
    directory.rename(doomed)
    shutil.rmtree(doomed)


def _put(partial: Path, destination: Path, *, replaces: bool) -> None:
    if replaces and destination.exists():
        remove_whole(destination)
    try:
        partial.rename(destination)
    except OSError as error:
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY}:
            raise _exists(destination) from error
        raise


def _exists(destination: Path) -> ConfigError:
    return ConfigError(f"{destination}: this exists already; remove it or choose another name.")
