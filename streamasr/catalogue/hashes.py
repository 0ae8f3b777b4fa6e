"""Hashes of first downloads, which later downloads of the same name must match.

A file whose hash the registry states is compared with that. For all others, the first download that
can be imported is trusted and recorded in `hashes.json` among the models.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from streamasr.core.errors import ConfigError, ModelError

BOOK: Final = "hashes.json"
_VERSION: Final = 1
_MOST_NAMED: Final = 3


class NotedFile(msgspec.Struct, frozen=True):
    """A downloaded file."""

    size: int
    sha256: str


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """The first download of a name."""

    source: str
    commit: str | None = None
    files: dict[str, NotedFile]


class _Book(msgspec.Struct):
    version: int = _VERSION
    models: dict[str, Noted] = {}


def read_noted(models: Path, name: str) -> Noted | None:
    """Return the record of a name; None if it was never downloaded.

    Raises:
        ConfigError: the records cannot be read.
    """
    return _read(models / BOOK).models.get(name)


def note(models: Path, name: str, noted: Noted) -> None:
    """Record a download, in place of an earlier record of its name.

    Raises:
        ConfigError: the record cannot be written.
    """
    with _alone(models):
        book = _read(models / BOOK)
        book.models[name] = noted
        text = msgspec.json.format(msgspec.json.encode(book), indent=2)
        try:
            partial = models / f".{BOOK}.partial"
            with partial.open("wb") as file:
                file.write(text + b"\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(models / BOOK)
        except OSError as error:
            raise ConfigError(
                f"{models / BOOK} cannot be written: {error.strerror}.", code="file_not_written"
            ) from error


@contextlib.contextmanager
def _alone(models: Path) -> Iterator[None]:
    """Keep other processes from writing records meanwhile."""
    try:
        models.mkdir(parents=True, exist_ok=True)
        fd = os.open(models / f".{BOOK}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(
            f"{models} cannot be written: {error.strerror}.", code="models_not_writable"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read(path: Path) -> _Book:
    try:
        book = msgspec.json.decode(path.read_bytes(), type=_Book)
    except FileNotFoundError:
        return _Book()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}.", code="file_unreadable"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}, which holds the hashes of earlier downloads, is damaged ({error}); if you "
            "remove it, the next download of each model is trusted.",
            code="hashes_damaged",
        ) from error
    if book.version != _VERSION:
        raise ConfigError(
            f"{path} was written by a newer streamasr; update this one.", code="hashes_too_new"
        )
    return book


def check_same(
    name: str,
    noted: Noted,
    source: str,
    found: Mapping[str, tuple[int | None, str | None]],
    again: str = "",
) -> None:
    """Refuse a model that differs from the first download.

    Args:
        name: of the model.
        noted: record of the first download.
        source: its present place on the network.
        found: size and hash of each file at present, as far as they are known.
        again: options that a repeated command needs.

    Raises:
        ModelError: the place, a file or a hash differs.
    """
    differences = [*_differences(noted, source, found)]
    if not differences:
        return
    more = len(differences) - _MOST_NAMED
    shown = "; ".join(differences[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
    raise ModelError(
        f"{name} differs from its first download: {shown}. If that is intended, run `streamasr "
        f"models pull {name}{' ' * bool(again)}{again} --accept-changed`.",
        code="download_changed",
    )


def _differences(
    noted: Noted, source: str, found: Mapping[str, tuple[int | None, str | None]]
) -> Iterator[str]:
    if noted.source != source:
        yield f"it came from {noted.source} and now comes from {source}"
    for file in sorted(noted.files.keys() | found.keys()):
        if file not in found:
            yield f"{file} is missing"
        elif file not in noted.files:
            yield f"{file} is new"
        else:
            then, (size, sha256) = noted.files[file], found[file]
            if sha256 not in (None, then.sha256):
                yield f"{file} has SHA-256 {sha256}, it had {then.sha256}"
            elif size not in (None, then.size):
                yield f"{file} has {size} bytes, it had {then.size}"
