"""What was fetched the first time, so that it is the same the next time.

A hash that the registry states is checked against that. Of all other files the first download that
turns out to be a model is believed and noted in `hashes.json` among the models, and later ones of
the same name must match.
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
    """A file as it was fetched."""

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
    """What was noted of a name; None if it was never fetched.

    Raises:
        ConfigError: the notes cannot be read.
    """
    return _read(models / BOOK).models.get(name)


def note(models: Path, name: str, noted: Noted) -> None:
    """Note what was fetched, in place of an earlier note of this name.

    Raises:
        ConfigError: it cannot be written.
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
            raise ConfigError(f"{models / BOOK} cannot be written: {error.strerror}.") from error


@contextlib.contextmanager
def _alone(models: Path) -> Iterator[None]:
    """No other process writes notes meanwhile."""
    try:
        models.mkdir(parents=True, exist_ok=True)
        fd = os.open(models / f".{BOOK}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"{models} cannot be written: {error.strerror}.") from error
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
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}, which holds the hashes of earlier downloads, is damaged ({error}); if you "
            "remove it, the next download of each model is believed anew."
        ) from error
    if book.version != _VERSION:
        raise ConfigError(f"{path} was written by a newer streamasr; this one cannot read it.")
    return book


def check_same(
    name: str,
    noted: Noted,
    source: str,
    found: Mapping[str, tuple[int | None, str | None]],
    again: str = "",
) -> None:
    """Refuse a model that is not the one that was fetched the first time.

    Args:
        name: of the model.
        noted: what was noted then.
        source: where it would come from now.
        found: file -> its size and hash now, as far as they are known.
        again: options that the same command must have again.

    Raises:
        ModelError: something differs.
    """
    differences = [*_differences(noted, source, found)]
    if not differences:
        return
    more = len(differences) - _MOST_NAMED
    shown = "; ".join(differences[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
    raise ModelError(
        f"{name} is not what it was when it was first fetched: {shown}. If that is meant to be so, "
        f"say `streamasr models pull {name}{' ' * bool(again)}{again} --accept-changed`."
    )


def _differences(
    noted: Noted, source: str, found: Mapping[str, tuple[int | None, str | None]]
) -> Iterator[str]:
    if noted.source != source:
        yield f"it came from {noted.source} and now comes from {source}"
    for file in sorted(noted.files.keys() | found.keys()):
        if file not in found:
            yield f"{file} is no more"
        elif file not in noted.files:
            yield f"{file} is new"
        else:
            then, (size, sha256) = noted.files[file], found[file]
            if sha256 not in (None, then.sha256):
                yield f"{file} has SHA-256 {sha256}, it had {then.sha256}"
            elif size not in (None, then.size):
                yield f"{file} has {size} bytes, it had {then.size}"
