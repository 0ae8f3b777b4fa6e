"""From a known model to its files on disk, from a repository or from a single address."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests

from streamasr.catalogue.download import OtherFileError, download
from streamasr.catalogue.hashes import Noted, NotedFile, check_same, read_noted
from streamasr.catalogue.hub import HubFile, Snapshot, choose_files, is_document, read_snapshot
from streamasr.catalogue.known import KnownModel
from streamasr.catalogue.partial_file import Downloaded
from streamasr.catalogue.places import download_place
from streamasr.catalogue.timeouts import Policy
from streamasr.core.errors import ConfigError
from streamasr.importing.tensors import Notice, Progress, silent, unheard


@dataclass(frozen=True, slots=True)
class Web:
    """Access to the network."""

    endpoint: str
    session: requests.Session
    policy: Policy
    progress: Progress = silent
    notice: Notice = unheard
    """Receives the reasons for retries."""
    again: str = ""
    """Options that a repeated command needs, such as `--endpoint URL`."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The downloaded files of a model, as they were published."""

    path: Path
    """Directory or file to import."""
    provenance: Mapping[str, str]
    """Origin of the files."""
    noted: Noted | None
    """Hashes that later downloads must match; to be stored once the import has succeeded, since
    otherwise a login page might be taken for the model. None if the registry states the hash."""


def fetch_model(
    name: str, model: KnownModel, models: Path, web: Web, *, accept_changed: bool = False
) -> Fetched:
    """Download the files of a model, or the missing part of them.

    Args:
        name: of the model.
        model: its place on the network.
        models: the directory of installed models.
        web: access to the network.
        accept_changed: whether the files may differ from those of the first download.

    Raises:
        DownloadError: a file cannot be downloaded.
        ModelError: the files differ from those of the first download.
        ConfigError: a file cannot be written.
    """
    place = download_place(models, name)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{place} cannot be made: {error.strerror}.", code="directory_not_made"
        ) from error
    noted = None if accept_changed else read_noted(models, name)
    if model.url is not None:
        return _fetch_file(name, model, models, web, noted)
    return _fetch_repository(name, model, models, web, noted)


def _fetch_file(
    name: str, model: KnownModel, models: Path, web: Web, noted: Noted | None
) -> Fetched:
    assert model.url is not None
    place, file = download_place(models, name), model.file_name
    _keep_only(place, [file])
    if model.sha256 is not None:
        noted = None  # the hash in the registry overrides the recorded one
    then = noted.files.get(file) if noted else None
    if noted is not None:
        check_same(name, noted, model.source, {file: (model.size, None)}, web.again)
    try:
        found = download(
            model.url,
            place / file,
            size=then.size if then else model.size,
            sha256=then.sha256 if then else model.sha256,
            session=web.session,
            policy=web.policy,
            progress=web.progress,
            notice=web.notice,
        )
    except OtherFileError as error:
        if noted is not None:
            differing = {file: (error.size, error.sha256)}
            check_same(name, noted, model.source, differing, web.again)
        raise
    first = Noted(source=model.source, files={file: _noted(found)})
    provenance = {"name": name, "url": model.url}
    return Fetched(found.path, provenance, first if model.sha256 is None else None)


def _fetch_repository(
    name: str, model: KnownModel, models: Path, web: Web, noted: Noted | None
) -> Fetched:
    assert model.repository is not None
    place = download_place(models, name)
    snapshot = read_snapshot(
        web.endpoint,
        model.repository,
        model.revision,
        place,
        session=web.session,
        policy=web.policy,
        progress=web.progress,
        notice=web.notice,
    )
    chosen = choose_files(snapshot, model.files)
    if noted is not None:
        announced = {file.name: (file.size, file.sha256) for file in _lasting(chosen)}
        check_same(name, noted, model.source, announced, web.again)
    _keep_only(place, [file.name for file in chosen])
    found = {}
    for number, file in enumerate(chosen, 1):
        label = f"fetching {file.name} (file {number} of {len(chosen)})"
        found[file.name] = _fetch_one(snapshot, file, place, web, label)
    files = {file.name: _noted(found[file.name]) for file in _lasting(chosen)}
    if noted is not None:
        fetched = {file: (one.size, one.sha256) for file, one in files.items()}
        check_same(name, noted, model.source, fetched, web.again)
    provenance = {
        "name": name,
        "repository": model.repository,
        "revision": model.revision,
        "commit": snapshot.commit,
    }
    first = Noted(source=model.source, commit=snapshot.commit, files=files)
    return Fetched(place, provenance, first)


def _fetch_one(snapshot: Snapshot, file: HubFile, place: Path, web: Web, label: str) -> Downloaded:
    path = place / file.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{path.parent} cannot be made: {error.strerror}.", code="directory_not_made"
        ) from error
    return download(
        snapshot.url(file),
        path,
        size=file.size,
        sha256=file.sha256,
        label=label,
        session=web.session,
        policy=web.policy,
        progress=web.progress,
        notice=web.notice,
    )


def _lasting(files: Iterable[HubFile]) -> list[HubFile]:
    """Return the files that must not change."""
    return [file for file in files if not is_document(file.name)]


def _noted(found: Downloaded) -> NotedFile:
    return NotedFile(found.size, found.sha256)


def _keep_only(place: Path, names: Iterable[str]) -> None:
    """Remove files of an earlier download that do not belong to this one."""
    kept = {place / name for name in names}
    kept |= {path.with_name(path.name + end) for path in kept for end in _PARTS}
    try:
        for path in sorted(place.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if not any(path in each.parents for each in kept):
                    path.rmdir()
            elif path not in kept:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{place} cannot be cleaned up: {error.strerror}.", code="file_not_removed"
        ) from error


_PARTS: Final = (".partial", ".partial.json")
