"""Identity of an imported model's source, to import it once, and again after it has changed."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Final

PARTS_OF_FOLDERS: Final = frozenset(
    {".onnx", ".data", ".safetensors", ".json", ".pt", ".pb", ".yaml", ".mvn"}
)
"""Suffixes of files that are not a model by themselves: their path stands for their folder."""

_RELEVANT: Final = PARTS_OF_FOLDERS | {".gguf", ".txt", ".md"}
"""Suffixes of the files in a folder that may influence the imported model."""

_MAX_DEPTH: Final = 3  # nested folders: models/Qwen3-ASR/Qwen3-ASR-1.7B
_MAX_FOLDERS: Final = 1000


def canonical_path(path: Path) -> Path:
    """Return the canonical path of a source.

    A file that is only a part of a folder stands for that folder. Symbolic links in a folder are
    not followed: a hub's cache consists of them.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow the last link, too
    if path.is_dir():
        return path.resolve()
    folder = path.parent.resolve()
    return folder if path.suffix.lower() in PARTS_OF_FOLDERS else folder / path.name


def folder_levels(folder: Path) -> Iterator[list[Path]]:
    """Yield a folder, then the folders in it, then those in them, down to the search depth.

    A folder with several links to it is included once. Of a hub's cache of a repository only the
    snapshots are included: they are links to the rest.
    """
    level, seen = [folder], {folder.resolve()}
    for _ in range(_MAX_DEPTH + 1):
        yield level
        below = [each for parent in level for each in _folders_in(parent)]
        level = []
        for each in below:
            if (resolved := each.resolve()) not in seen:
                seen.add(resolved)
                level.append(each)
        if not level or len(seen) > _MAX_FOLDERS:
            return


def _folders_in(folder: Path) -> list[Path]:
    snapshots = folder / "snapshots"
    parent = snapshots if _is_folder(snapshots) else folder
    return sorted(each for each in _listed(parent) if each.name[0] != "." and _is_folder(each))


def _listed(folder: Path) -> list[Path]:
    """Return the entries of a folder; none if permission to read it is denied."""
    try:
        return list(folder.iterdir())
    except PermissionError:
        return []


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises if a path is not accessible


def stamp_of(path: Path) -> str:
    """Return a hash of the names, sizes and modification times of the files under a path.

    Args:
        path: canonical path of the source.

    Raises:
        OSError: the path or a file below it is not accessible.
    """
    files = [path]
    if path.is_dir():
        folders = chain.from_iterable(folder_levels(path))
        files = [each for folder in folders for each in _listed(folder)]
        files = [each for each in files if each.suffix.lower() in _RELEVANT and each.is_file()]
    seen = sorted((str(each.relative_to(path)), *_size_and_time(each)) for each in files)
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def is_unchanged(source: Mapping[str, Any], path: Path) -> bool:
    """Return whether the files from which a model was imported are unchanged.

    Args:
        source: the section `source` of the model's description.
        path: canonical path of the source.
    """
    try:
        if source.get("stamp") != stamp_of(path):
            return False
        return all(
            _size_and_time(Path(file["path"])) == (file["bytes"], file["modified_ns"])
            for file in source["files"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return the size in bytes, and the time of the last modification in nanoseconds."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
