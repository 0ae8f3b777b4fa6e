"""Where the files of a model are while it is being fetched."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from streamasr.errors import ConfigError, DownloadError

_DOWNLOADS: Final = ".downloads"


def download_place(models: Path, name: str) -> Path:
    """Where the files of a model are while it is being fetched and imported.

    Beside the models, so that what is used as it is becomes a link and not a copy.
    """
    return models / _DOWNLOADS / name


@contextlib.contextmanager
def sole_download(models: Path, name: str) -> Iterator[None]:
    """Keep other processes from fetching the same model meanwhile.

    Raises:
        DownloadError: another process is at it.
        ConfigError: nothing can be written there.
    """
    place = download_place(models, name)
    try:
        place.mkdir(parents=True, exist_ok=True)
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{place} cannot be made: {error.strerror}.") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise DownloadError(f"{name} is being fetched by another process.") from error
    finally:
        os.close(fd)


def forget_download(models: Path, name: str) -> None:
    """Remove what was fetched of a model; what was imported stays."""
    place = download_place(models, name)
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(OSError):  # others are being fetched
        place.parent.rmdir()
