"""The models that are installed: one directory each, in the user's cache.

A directory is what `streamasr.importing.pack` writes. What is hidden is not a model: downloads,
notes, and what is half made.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamasr.catalogue.known import EMBEDDED, KnownModel, check_name, known_models
from streamasr.errors import ConfigError, ModelError
from streamasr.models.bundle import Bundle, open_bundle

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Installed:
    """A directory among the models."""

    name: str
    directory: Path
    bundle: Bundle | None
    """None if it cannot be used."""
    problem: str | None
    """Why it cannot be used."""

    @property
    def n_bytes(self) -> int:
        """What it takes on disk; a file with several names counts once."""
        return size_on_disk(self.directory)

    @property
    def source(self) -> str:
        """Where it came from, in a few words; empty if that is not known."""
        source = self.bundle.source if self.bundle else {}
        for key in ("repository", "url"):
            if isinstance(source.get(key), str):
                return str(source[key])
        files = [each["path"] for each in _source_files(source)]
        return os.path.commonpath(files) if files else ""


def place_of(models: Path, name: str) -> Path:
    """The directory of a model of this name, which need not be there.

    Raises:
        ConfigError: nothing can be called so.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise ConfigError(f"{error}.") from error
    return models / name


def list_installed(models: Path) -> list[Installed]:
    """All models that are installed, broken ones too, by name.

    Raises:
        ConfigError: the directory cannot be read.
    """
    try:
        directories = sorted(models.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{models} cannot be read: {error.strerror}.") from error
    shown = (path for path in directories if path.name[0] != ".")
    return [_look_at(path) for path in shown if os.path.isdir(path)]  # noqa: PTH112 - never raises


def _look_at(directory: Path) -> Installed:
    try:
        check_name(directory.name)
        bundle = open_bundle(directory)
        bundle.check_files()
    except (ModelError, ValueError) as error:
        return Installed(directory.name, directory, None, str(error))
    except OSError as error:
        problem = f"{directory} cannot be read: {error.strerror}."
        return Installed(directory.name, directory, None, problem)
    return Installed(directory.name, directory, bundle, None)


def find_installed(models: Path, name: str) -> Installed | None:
    """The installed model of this name, usable or not; None if there is none."""
    try:
        check_name(name)
    except ValueError:
        return None
    directory = models / name
    return _look_at(directory) if os.path.isdir(directory) else None  # noqa: PTH112 - never raises


def need_installed(models: Path, name: str, own: Mapping[str, KnownModel]) -> Installed:
    """The installed model of this name, usable or not.

    Args:
        models: where models are installed.
        name: of the model.
        own: the models that a configuration adds to those that are known.

    Raises:
        ModelError: it is not installed; says how it can be.
    """
    if found := find_installed(models, name):
        return found
    known = known_models(own)
    if name in known:
        raise ModelError(f"{name} is not installed; `streamasr models pull {name}` gets it.")
    import difflib

    names = [EMBEDDED, *known, *(each.name for each in list_installed(models))]
    close = difflib.get_close_matches(name, names, n=1)
    meant = f"; did you mean {close[0]}?" if close else "; `streamasr models list` shows all."
    raise ModelError(f"no model {name!r} is installed or known{meant}")


def remove_installed(models: Path, name: str) -> int:
    """Remove a model, in one step as others see it; the bytes that it took.

    Raises:
        ModelError: it is not installed.
        ConfigError: it cannot be removed.
    """
    found = find_installed(models, name)
    if found is None:
        raise ModelError(f"{name!r} is not installed; `streamasr models list` shows what is.")
    n_bytes = found.n_bytes
    try:
        if found.directory.is_symlink():
            found.directory.unlink()
            return 0
        doomed = models / f".{name}.{os.getpid()}.partial"  # whoever imports next cleans up
        found.directory.rename(doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        raise ConfigError(f"{found.directory} cannot be removed: {error.strerror}.") from error
    return n_bytes


def find_by_source(models: Path, path: Path) -> Installed | None:
    """The model that was imported from a file or a directory that is unchanged since.

    Args:
        models: where models are installed.
        path: what was given: a directory, or one of the files.
    """
    path = Path(os.path.realpath(path))
    for each in list_installed(models):
        files = list(_source_files(each.bundle.source)) if each.bundle else []
        places = [Path(os.path.realpath(file["path"])) for file in files]
        is_of_it = path in places or all(path in [*place.parents][:2] for place in places)
        if files and is_of_it and all(_is_unchanged(file) for file in files):
            return each
    return None


def _source_files(source: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    files = source.get("files")
    for file in files if isinstance(files, list) else []:
        if isinstance(file, dict) and isinstance(file.get("path"), str):
            yield file


def _is_unchanged(file: Mapping[str, Any]) -> bool:
    """Whether a file is what it was: by its size and time, and by its hash if it was touched."""
    path = Path(file["path"])
    try:
        status = path.stat()
        if status.st_size != file.get("bytes"):
            return False
        return status.st_mtime_ns == file.get("modified_ns") or _sha256(path) == file.get("sha256")
    except (OSError, ValueError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_on_disk(directory: Path) -> int:
    """The bytes that the files of a directory take; a file with several names counts once."""
    sizes = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it is being removed
                status = os.lstat(Path(parent, name))
                sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())
