"""What a model directory was made from, so that it is made once, and anew when that has changed."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Final

PARTS_OF_FOLDERS: Final = frozenset({".onnx", ".data", ".safetensors", ".json"})
"""Endings of files that are not a model by themselves: one that is named stands for its folder."""

_LOOKED_AT: Final = PARTS_OF_FOLDERS | {".gguf", ".txt", ".md"}
"""Endings of the files of a folder that may matter to what is made of it."""

_DEEPEST: Final = 3  # folders in one another: models/Qwen3-ASR/Qwen3-ASR-1.7B
_MOST_FOLDERS: Final = 1000


def given_path(path: Path) -> Path:
    """The path that a source is known by, however it was written.

    A file that is only a part of a folder stands for that folder. What a link in a folder leads to
    does not matter: a hub's cache is full of them.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow the last link too
    if path.is_dir():
        return path.resolve()
    folder = path.parent.resolve()
    return folder if path.suffix.lower() in PARTS_OF_FOLDERS else folder / path.name


def levels_of(folder: Path) -> Iterator[list[Path]]:
    """A folder, then the folders in it, then those in them, as deep as models are looked for.

    A folder that several links lead to is named once. Of a hub's cache of a repository only the
    snapshots count: they are links to the rest.
    """
    level, seen = [folder], {folder.resolve()}
    for _ in range(_DEEPEST + 1):
        yield level
        below = [each for parent in level for each in _folders_in(parent)]
        level = []
        for each in below:
            if (place := each.resolve()) not in seen:
                seen.add(place)
                level.append(each)
        if not level or len(seen) > _MOST_FOLDERS:
            return


def _folders_in(folder: Path) -> list[Path]:
    snapshots = folder / "snapshots"
    parent = snapshots if _is_folder(snapshots) else folder
    return sorted(each for each in _listed(parent) if each.name[0] != "." and _is_folder(each))


def _listed(folder: Path) -> list[Path]:
    """What is in a folder; of one that may not be read nothing can be known."""
    try:
        return list(folder.iterdir())
    except PermissionError:
        return []


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises where a path cannot be looked at


def stamp_of(path: Path) -> str:
    """Something that changes with what is under a path: names, sizes and times of its files.

    Args:
        path: from `given_path`.

    Raises:
        OSError: it cannot be looked at.
    """
    files = [path]
    if path.is_dir():
        folders = chain.from_iterable(levels_of(path))
        files = [each for folder in folders for each in _listed(folder)]
        files = [each for each in files if each.suffix.lower() in _LOOKED_AT and each.is_file()]
    seen = sorted((str(each.relative_to(path)), *_size_and_time(each)) for each in files)
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def is_unchanged(source: Mapping[str, Any], path: Path) -> bool:
    """Whether all that a model was made from is as it was.

    Args:
        source: what its description says of that.
        path: from `given_path`.
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
    """Bytes, and nanoseconds of the last change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
