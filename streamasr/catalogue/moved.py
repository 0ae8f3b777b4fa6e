"""Sources that were moved or renamed after they had been imported, and are known by their content.

Importing them anew would take minutes, and their room on the disk a second time.
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
    """The model whose source is under another path now; it is noted where.

    Args:
        models: where models are installed.
        given: from `given_path`: where a source is that is not known.
        progress: told while files are compared.

    Raises:
        ConfigError: it cannot be noted.
    """
    for each in list_installed(models):
        if each.bundle is not None and follow(each.bundle, given, progress):
            return each
    return None


def follow(bundle: Bundle, given: Path, progress: Progress = silent) -> bool:
    """Whether what a model was made of is under this path now, and no longer where it was.

    If so, the model's description says so from now on.

    Args:
        bundle: of the model.
        given: from `given_path`.
        progress: told while files are compared.

    Raises:
        ConfigError: the description cannot be written.
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
    """What is known of the files under their new paths; None if they are others."""
    old = Path(source["path"])
    # Times alone say little: all files out of some archives have the same.
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
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
