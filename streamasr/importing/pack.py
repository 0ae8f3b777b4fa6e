"""Creation of a model directory (a bundle) from any source, as `streamasr models import` does.

DIR/model.json   facts that the other files do not state, their origin, their hashes
DIR/...          the files of the family, as the source writes them
DIR/aligner/     a second model directory, if the source has an aligner, too

Files that are used unchanged become hard links if the file system allows it, else copies.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from streamasr.core.errors import ModelError
from streamasr.importing.atomic import atomic_directory
from streamasr.importing.bundle_source import BundleSource
from streamasr.importing.bundle_writer import BundleWriter, Hashes
from streamasr.importing.model_source import Source
from streamasr.importing.options import ImportOptions, recorded_options
from streamasr.importing.origin import canonical_path, stamp_of
from streamasr.importing.source import open_sources
from streamasr.importing.tensors import Notify, Progress, ignore_notice, ignore_progress
from streamasr.models.bundle import FACTS_FILE, FORMAT, VERSION, Bundle, open_bundle

_PUBLISHED: Final = ("repository", "revision", "commit", "url", "checkpoint")
_SCRATCH: Final = ".unpacked"
_ALIGNER: Final = "aligner"


def import_model(
    path: Path,
    destination: Path,
    options: ImportOptions | None = None,
    progress: Progress = ignore_progress,
    *,
    notice: Notify = ignore_notice,
    replaces: bool = False,
) -> Bundle:
    """Create a model directory atomically. The source is only read.

    Args:
        path: a source in any of the forms of `source.py`.
        destination: the directory.
        options: its requested properties.
        progress: called after every step.
        notice: called with a sentence about the chosen files if there is a choice.
        replaces: whether the directory may exist already; then it is replaced at the end.

    Raises:
        ConfigError: the destination exists, cannot be written or is on a full disk, or an option
            does not apply to the source.
        ModelError: the source cannot be used, or was changed meanwhile.
    """
    options = options or ImportOptions()
    name = options.name or default_name(path)
    with atomic_directory(destination, replaces=replaces) as partial:
        given = canonical_path(path)
        origin = _begin_origin(given, options)
        scratch = partial / _SCRATCH
        sources = open_sources(path, scratch, progress)
        for note in sources.notes:
            notice(note)
        hashes, archives = Hashes(progress), [given] if scratch.exists() else None

        def pack(source: Source, directory: Path, name: str) -> None:
            writer = BundleWriter(directory, name, options, progress, hashes, archives)
            _pack(source, writer, origin)

        pack(sources.main, partial, name)
        if sources.recogniser and sources.aligner:
            (partial / _ALIGNER).mkdir()
            pack(sources.aligner, partial / _ALIGNER, f"{name}-aligner")
        if stamp_of(given) != origin["stamp"]:
            raise ModelError(
                f"{path} was changed during the import; import it again.", code="source_changed"
            )
        shutil.rmtree(scratch, ignore_errors=True)
        open_bundle(partial).check_files()
    return open_bundle(destination)


def _begin_origin(given: Path, options: ImportOptions) -> dict[str, Any]:
    """Record the identity of a source before any of it is read."""
    try:
        origin = dict(options.provenance or {}) | {"path": str(given), "stamp": stamp_of(given)}
        json.dumps(origin).encode()
    except FileNotFoundError as error:
        raise ModelError(f"{given} does not exist.", code="file_missing") from error
    except OSError as error:
        unreadable = error.filename or given
        raise ModelError(
            f"{unreadable} cannot be read: {error.strerror}.", code="file_unreadable"
        ) from error
    return origin | {"wish": recorded_options(options), "automatic": options.is_automatic}


def default_name(path: Path) -> str:
    """Return the default name of a source."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - a link's own name is the better one
    if path.parent.name == "snapshots":  # of a hub's cache: models--OWNER--NAME/snapshots/COMMIT
        return path.parent.parent.name.rpartition("--")[2]
    return path.name if path.is_dir() else path.stem


def _pack(source: Source, writer: BundleWriter, origin: Mapping[str, Any]) -> None:
    """Write one bundle.

    Args:
        source: a model of one family.
        writer: destination.
        origin: recorded identity of the source.
    """
    writer.check_space(source.max_bytes(writer.options, writer.directory))
    of_all = {"format": FORMAT, "version": VERSION, "family": source.family, "name": writer.name}
    facts = of_all | source.write(writer) | of_all
    facts["licence"] = facts.get("licence") or writer.options.licence
    facts["languages"] = facts.get("languages") or writer.options.languages
    facts["source"] = _describe_source(source, writer, origin)
    facts["files"] = writer.stored_files()
    text = json.dumps(facts, ensure_ascii=False, indent=2)
    with (writer.directory / FACTS_FILE).open("x", encoding="utf-8") as file:
        file.write(f"{text}\n")


def _describe_source(
    source: Source, writer: BundleWriter, origin: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe the origin of a model."""
    files: Sequence[Path] = writer.archives or source.files()
    described = [
        {
            "path": str(path),
            "modified_ns": path.stat().st_mtime_ns,
            **writer.hashes.describe(path),
        }
        for path in files
    ]
    # The files of a bundle's source may be gone, but the place of publication stays valid.
    published = source.bundle.source if isinstance(source, BundleSource) else {}
    known = {key: published[key] for key in _PUBLISHED if key in published}
    return known | dict(origin) | {"files": described}
