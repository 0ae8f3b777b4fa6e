"""Access to the user's files: their kind by the first bytes, their hashes, links and copies."""

import hashlib
import os
from pathlib import Path
from typing import Final

from streamasr.core.errors import ModelError
from streamasr.importing.tensors import Progress, ignore_progress

_BUFFER_BYTES: Final = 1 << 22
_MAGICS: Final = {b"GGUF": "gguf", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip"}
_LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"


def entries_of(folder: Path) -> list[Path]:
    """Return the entries of a folder in order, hidden ones excluded.

    Raises:
        ModelError: the folder cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ModelError(
            f"{folder} cannot be read: {error.strerror}.", code="file_unreadable"
        ) from error


def kind_of(path: Path) -> str | None:
    """Return the format that the first bytes of a file state: `gguf`, `zip`, or None.

    Raises:
        ModelError: the path is not a regular file, or cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ModelError(
            f"{path} is not a regular file; give the path of a file or a folder.",
            code="not_a_regular_file",
        )
    try:
        with path.open("rb") as file:
            return _MAGICS.get(file.read(4))
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist.", code="file_missing") from error
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}.", code="file_unreadable"
        ) from error


def placeholder_error(path: Path) -> ModelError | None:
    """Return the error for a file that has only the name of a model file; None for any other.

    Args:
        path: a file.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}.", code="file_unreadable"
        ) from error
    if not head:
        return ModelError(f"{path} is empty; download it again.", code="file_empty")
    if head == _LFS_POINTER:
        return ModelError(
            f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in the cloned "
            "repository, or download the file.",
            code="lfs_pointer",
        )
    return None


def link_or_copy(source: Path, destination: Path, progress: Progress = ignore_progress) -> bool:
    """Create a second name for a file, or a copy where a link is not possible.

    The link is a hard link to the file itself, even if the source is a symbolic link, so it stays
    when the source is removed. If the file cannot be linked (another file system, no permission) it
    is copied.

    Args:
        source: a file, which is only read.
        destination: must not exist.
        progress: called while bytes are copied.

    Returns:
        True for a link: a change of the source then changes the destination, too.

    Raises:
        OSError: neither a link nor a copy is possible; a partial copy has been removed.
    """
    source = source.resolve(strict=True)
    try:
        # A hard link to a symbolic link would still point out of the directory.
        os.link(source, destination, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        _copy(source, destination, progress)
        return False
    return True


def _copy(source: Path, destination: Path, progress: Progress) -> None:
    with source.open("rb") as reader, destination.open("xb") as writer:
        size, done = os.fstat(reader.fileno()).st_size, 0
        try:
            while buffer := reader.read(_BUFFER_BYTES):
                writer.write(buffer)
                done += len(buffer)
                progress(f"copying {source.name}", done, size)
            writer.flush()
        except BaseException:
            destination.unlink(missing_ok=True)
            raise


def hash_file(path: Path, progress: Progress = ignore_progress) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest, done = hashlib.sha256(), 0
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        while buffer := file.read(_BUFFER_BYTES):
            digest.update(buffer)
            done += len(buffer)
            progress(f"checking {path.name}", done, size)
    return digest.hexdigest()
