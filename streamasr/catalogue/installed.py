"""The models that are installed: one directory each, in the user's cache.

A directory is what `streamasr.importing.pack` writes. What is hidden is not a model: downloads,
notes, and what is half made.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from streamasr.catalogue.known import EMBEDDED, KnownModel, check_name, guess, known_models
from streamasr.core.errors import ConfigError, ModelError
from streamasr.importing.placing import remove_whole
from streamasr.models.bundle import Bundle, open_bundle

logger = logging.getLogger(__name__)


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
        return str(source.get("path", ""))


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
    names = dict.fromkeys([EMBEDDED, *known, *(each.name for each in list_installed(models))])
    meant = guess(name, names, known) or "`streamasr models list` shows all."
    raise ModelError(f"no model {name!r} is installed or known; {meant}")


def remove_installed(models: Path, name: str) -> int:
    """Remove a model, in one step as others see it.

    Returns:
        The bytes that are free now: none of a file that has another name elsewhere.

    Raises:
        ModelError: it is not installed.
        ConfigError: it cannot be removed.
    """
    found = find_installed(models, name)
    if found is None:
        raise ModelError(f"{name!r} is not installed; `streamasr models list` shows what is.")
    try:
        if found.directory.is_symlink():
            found.directory.unlink()
            return 0
        n_bytes = size_on_disk(found.directory, n_links=1)
        remove_whole(found.directory)
    except OSError as error:
        raise ConfigError(f"{found.directory} cannot be removed: {error.strerror}.") from error
    return n_bytes


def find_by_source(models: Path, path: Path) -> Installed | None:
    """The model that was made of what is under a path, be it unchanged and usable or not.

    Args:
        models: where models are installed.
        path: from `given_path`.
    """
    found = []
    for each in list_installed(models):
        with contextlib.suppress(ModelError):
            bundle = open_bundle(each.directory)
            if bundle.source.get("path") == str(path):
                found.append(replace(each, bundle=bundle))
    # One that was made by itself follows its source, and so comes first.
    return min(found, key=lambda each: not is_automatic(each), default=None)


def is_automatic(installed: Installed) -> bool:
    """Whether nobody asked for the import of a model, but only for the use of its source."""
    return bool(installed.bundle and installed.bundle.source.get("automatic"))


@contextlib.contextmanager
def alone(models: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Look up and install while nobody else does.

    Args:
        models: where models are installed.
        wait: called once if somebody is at it.

    Raises:
        ConfigError: the directory cannot be made.
    """
    try:
        models.mkdir(parents=True, exist_ok=True)
        lock = os.open(models / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{models}: models cannot be installed here ({error.strerror}); set storage.models."
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # of some network file systems; a model is there whole or not
            logger.warning("%s cannot be locked: %s", models, error.strerror)
        yield
    finally:
        os.close(lock)


def size_on_disk(directory: Path, *, n_links: int | None = None) -> int:
    """The bytes that the files of a directory take; a file with several names counts once.

    Args:
        directory: with all that is in it.
        n_links: counts only files with so many names.
    """
    sizes = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            status = os.lstat(Path(parent, name))
            if n_links in (None, status.st_nlink):
                sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())
