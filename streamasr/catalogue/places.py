"""Directories of downloads."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from streamasr.core.errors import ConfigError, DownloadError

_DOWNLOADS: Final = ".downloads"


def download_place(models: Path, name: str) -> Path:
    """Return the directory of a model's files during download and import.

    It is beside the models, so that files that are used unchanged become links and not copies.
    """
    return models / _DOWNLOADS / name


@contextlib.contextmanager
def sole_download(models: Path, name: str) -> Iterator[None]:
    """Keep other processes from downloading the same model meanwhile.

    Raises:
        DownloadError: another process is downloading the model.
        ConfigError: the directory cannot be made.
    """
    place = download_place(models, name)
    try:
        fd = _take(place)
    except BlockingIOError as error:
        raise DownloadError(
            f"{name} is being fetched by another process.", code="download_locked"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{place} cannot be made ({error.strerror}); set storage.models to another place.",
            code="models_not_writable",
        ) from error
    try:
        yield
    finally:
        for path in (place, place.parent):
            with contextlib.suppress(OSError):  # files were downloaded
                path.rmdir()
        os.close(fd)


def _take(place: Path) -> int:
    """Make a directory and hold a lock on it."""
    while True:
        place.mkdir(parents=True, exist_ok=True)
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that held the lock may have removed the directory just now.
            if os.path.samestat(os.fstat(fd), place.lstat()):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def list_downloads(models: Path) -> list[str]:
    """Return the names of models with downloaded files."""
    try:
        return sorted(
            path.name for path in (models / _DOWNLOADS).iterdir() if any(_files_below(path))
        )
    except OSError:  # no downloads
        return []


def fetched_bytes(models: Path, name: str) -> int:
    """Return the bytes of a model's downloaded files, complete or partial."""
    total = 0
    for path in _files_below(download_place(models, name)):
        with contextlib.suppress(FileNotFoundError):  # it was renamed meanwhile
            total += path.lstat().st_size
    return total


def _files_below(place: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(place):
        yield from (Path(parent, name) for name in names)


def forget_download(models: Path, name: str) -> None:
    """Remove the downloaded files of a model; the installed model stays."""
    place = download_place(models, name)
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(OSError):  # other downloads exist
        place.parent.rmdir()
