"""Where the files of a model are while it is being fetched."""

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
        fd = _take(place)
    except BlockingIOError as error:
        raise DownloadError(f"{name} is being fetched by another process.") from error
    except OSError as error:
        raise ConfigError(
            f"{place} cannot be made ({error.strerror}); set storage.models to another place."
        ) from error
    try:
        yield
    finally:
        for path in (place, place.parent):
            with contextlib.suppress(OSError):  # something has come
                path.rmdir()
        os.close(fd)


def _take(place: Path) -> int:
    """Make a directory and hold a lock on it."""
    while True:
        place.mkdir(parents=True, exist_ok=True)
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have removed it just now.
            if os.path.samestat(os.fstat(fd), place.lstat()):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def list_downloads(models: Path) -> list[str]:
    """The names of models of which something was fetched and is kept."""
    try:
        return sorted(
            path.name for path in (models / _DOWNLOADS).iterdir() if any(_files_below(path))
        )
    except OSError:  # there are none
        return []


def fetched_bytes(models: Path, name: str) -> int:
    """The bytes on disk of what was fetched of a model and is kept, whole or in part."""
    total = 0
    for path in _files_below(download_place(models, name)):
        with contextlib.suppress(FileNotFoundError):  # it has got its name meanwhile
            total += path.lstat().st_size
    return total


def _files_below(place: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(place):
        yield from (Path(parent, name) for name in names)


def forget_download(models: Path, name: str) -> None:
    """Remove what was fetched of a model; what was imported stays."""
    place = download_place(models, name)
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(OSError):  # others are being fetched
        place.parent.rmdir()
