"""The models that are installed: one directory each, in the user's cache.

`streamasr.importing.pack` writes such a directory. Hidden directories are not models: they hold
downloads, notes, and unfinished imports.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from streamasr.catalogue.known import KnownModel, check_name, guess, known_models
from streamasr.core.errors import ConfigError, ModelError
from streamasr.importing.atomic import PARTIAL, remove_directory
from streamasr.models.bundle import Bundle, open_bundle
from streamasr.models.embedded import EMBEDDED

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Installed:
    """A directory among the models."""

    name: str
    directory: Path
    bundle: Bundle | None = None
    """None if the model cannot be used."""
    problem: str | None = None
    """Reason why it cannot be used."""
    code: str | None = None
    """Code of that error."""

    @property
    def n_bytes(self) -> int:
        """Size on disk; a file with several names counts once."""
        return size_on_disk(self.directory)

    @property
    def source(self) -> str:
        """Repository, address or path that the model came from; empty if unknown."""
        source = self.bundle.source if self.bundle else {}
        for key in ("repository", "url"):
            if isinstance(source.get(key), str):
                return str(source[key])
        return str(source.get("path", ""))


def place_of(models: Path, name: str) -> Path:
    """Return the directory of a model of this name, which need not exist.

    Raises:
        ConfigError: the name is not valid for a model.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise ConfigError(f"{error}.", code="invalid_model_name") from error
    return models / name


def list_installed(models: Path) -> list[Installed]:
    """Return all installed models in the order of their names, broken ones too.

    Raises:
        ConfigError: the directory cannot be read.
    """
    try:
        directories = sorted(models.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(
            f"{models} cannot be read: {error.strerror}.", code="models_unreadable"
        ) from error
    shown = (path for path in directories if path.name[0] != ".")
    return [_look_at(path) for path in shown if os.path.isdir(path)]  # noqa: PTH112 - never raises


def _look_at(directory: Path) -> Installed:
    try:
        check_name(directory.name)
        bundle = open_bundle(directory)
        bundle.check_files()
    except ModelError as error:
        return Installed(directory.name, directory, problem=str(error), code=error.code)
    except ValueError as error:
        problem, code = str(error), "invalid_model_name"
        return Installed(directory.name, directory, problem=problem, code=code)
    except OSError as error:
        problem, code = f"{directory} cannot be read: {error.strerror}.", "file_unreadable"
        return Installed(directory.name, directory, problem=problem, code=code)
    return Installed(directory.name, directory, bundle)


def find_installed(models: Path, name: str) -> Installed | None:
    """Return the installed model of this name, usable or not; None if none has the name."""
    try:
        check_name(name)
    except ValueError:
        return None
    directory = models / name
    return _look_at(directory) if os.path.isdir(directory) else None  # noqa: PTH112 - never raises


def need_installed(models: Path, name: str, own: Mapping[str, KnownModel]) -> Installed:
    """Return the installed model of this name, usable or not.

    Args:
        models: the directory of installed models.
        name: of the model.
        own: models that the settings add to the known ones.

    Raises:
        ModelError: no such model is installed; the message says how to get it.
    """
    if found := find_installed(models, name):
        return found
    known = known_models(own)
    if name in known:
        raise ModelError(
            f"{name} is not installed; `streamasr models pull {name}` gets it.",
            code="model_not_installed",
        )
    names = dict.fromkeys([*EMBEDDED, *known, *(each.name for each in list_installed(models))])
    meant = guess(name, names, known) or "`streamasr models list` shows all."
    raise ModelError(f"no model {name!r} is installed or known; {meant}", code="unknown_model")


def remove_installed(models: Path, name: str) -> int:
    """Remove a model; other processes see it whole or not at all.

    Returns:
        The bytes that this frees; a file with another name elsewhere frees none.

    Raises:
        ModelError: the model is not installed.
        ConfigError: the model cannot be removed.
    """
    found = find_installed(models, name)
    if found is None:
        raise ModelError(
            f"{name!r} is not installed; `streamasr models list` shows the installed models.",
            code="model_not_installed",
        )
    try:
        if found.directory.is_symlink():
            found.directory.unlink()
            return 0
        n_bytes = size_on_disk(found.directory, n_links=1)
        remove_directory(found.directory)
    except OSError as error:
        raise ConfigError(
            f"{found.directory} cannot be removed: {error.strerror}.", code="file_not_removed"
        ) from error
    return n_bytes


def find_by_source(models: Path, path: Path) -> Installed | None:
    """Return the model that was made of the files at a path; they may have changed since.

    Args:
        models: the directory of installed models.
        path: from `canonical_path`.
    """
    found = []
    for each in list_installed(models):
        with contextlib.suppress(ModelError):
            bundle = open_bundle(each.directory)
            if bundle.source.get("path") == str(path):
                found.append(replace(each, bundle=bundle))
    # An automatic import follows its source, and so comes first.
    return min(found, key=lambda each: not is_automatic(each), default=None)


def is_automatic(installed: Installed) -> bool:
    """Return whether a model was imported because its source was used, without a command."""
    return bool(installed.bundle and installed.bundle.source.get("automatic"))


@contextlib.contextmanager
def alone(models: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock under which models are looked up and installed.

    Args:
        models: the directory of installed models.
        wait: called once if another process holds the lock.

    Raises:
        ConfigError: the directory cannot be made or written.
    """
    try:
        models.mkdir(parents=True, exist_ok=True)
        lock = os.open(models / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{models}: models cannot be installed here ({error.strerror}); set storage.models.",
            code="models_not_writable",
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # on some network file systems; an import is atomic anyway
            logger.warning("%s cannot be locked: %s", models, error.strerror)
        yield
    finally:
        os.close(lock)


def size_on_disk(directory: Path, *, n_links: int | None = None) -> int:
    """Return the bytes that the files of a directory take; files with several names count once.

    Args:
        directory: counted with everything below it.
        n_links: if given, only files with this number of names count.
    """
    sizes = {}
    for parent, _, names in os.walk(directory):
        for name in names:
            status = os.lstat(Path(parent, name))
            if n_links in (None, status.st_nlink):
                sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def find_unfinished(models: Path) -> list[Path]:
    """Return the directories that killed imports have left; the next import removes them."""
    return [path for path in models.glob(f".*{PARTIAL}") if not _is_held(path)]


def _is_held(directory: Path) -> bool:
    """Return whether a process is working in a directory that is being made."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # it was renamed meanwhile: the import is finished
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
