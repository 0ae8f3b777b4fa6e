"""Sources that were moved or renamed after their import, recognised by their content.

Importing them again would take minutes, and their space on disk a second time.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamasr.catalogue.installed import Installed, list_installed
from streamasr.core.errors import ConfigError
from streamasr.importing.files import hash_file
from streamasr.importing.origin import stamp_of
from streamasr.importing.tensors import Progress, silent
from streamasr.models.bundle import FACTS_FILE, Bundle


def find_moved(models: Path, given: Path, progress: Progress = silent) -> Installed | None:
    """Return the model whose source was moved to a path, and record the new path.

    Args:
        models: the directory of installed models.
        given: from `given_path`: the path of an unknown source.
        progress: receives the progress of comparing files.

    Raises:
        ConfigError: the new path cannot be recorded.
    """
    for each in list_installed(models):
        if each.bundle is not None and follow(each.bundle, given, progress):
            return each
    return None


def follow(bundle: Bundle, given: Path, progress: Progress = silent) -> bool:
    """Return whether the source of a model was moved to this path; if so, record the new path.

    Args:
        bundle: of the model.
        given: from `given_path`.
        progress: receives the progress of comparing files.

    Raises:
        ConfigError: the description of the model cannot be written.
    """
    try:
        files = _moved_files(bundle.source, given, progress)
        if files is None:
            return False
        source = dict(bundle.source) | {"path": str(given), "files": files}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    _write(bundle, dict(bundle.facts) | {"source": source})
    return True


def _moved_files(
    source: Mapping[str, Any], given: Path, progress: Progress
) -> list[dict[str, Any]] | None:
    """Return the facts about the files with their new paths; None if they are other files."""
    old = Path(source["path"])
    # Times alone are not enough: all files of some archives have the same.
    if os.path.lexists(old) or source["stamp"] != stamp_of(given) or not source["files"]:
        return None
    moved = [(file, given / Path(file["path"]).relative_to(old)) for file in source["files"]]
    if any(hash_file(path, progress) != file["sha256"] for file, path in moved):
        return None
    return [
        file | {"path": str(path), "modified_ns": path.stat().st_mtime_ns} for file, path in moved
    ]


def _write(bundle: Bundle, facts: Mapping[str, Any]) -> None:
    path = bundle.directory / FACTS_FILE
    partial = path.with_name(f".{FACTS_FILE}.partial")
    try:
        partial.write_text(f"{json.dumps(facts, ensure_ascii=False, indent=2)}\n", "utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}.", code="file_not_written"
        ) from error
