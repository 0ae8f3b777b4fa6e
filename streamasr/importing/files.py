"""Users' files: what they are at first sight, their hashes, and bringing them into a model."""

import hashlib
import os
from pathlib import Path
from typing import Final

from streamasr.core.errors import ModelError
from streamasr.importing.tensors import Progress, silent

_PIECE: Final = 1 << 22  # bytes
_MAGICS: Final = {b"GGUF": "gguf", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip"}
_LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"


def entries_of(folder: Path) -> list[Path]:
    """What is in a folder, in order and without what is hidden.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error.strerror}.") from error


def kind_of(path: Path) -> str | None:
    """What the first bytes of a file say that it is: `gguf`, `zip` or something else.

    Raises:
        ModelError: it is no file, or cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is neither a file nor a directory.")
    try:
        with path.open("rb") as file:
            return _MAGICS.get(file.read(4))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such file or directory.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error


def explain_stub(path: Path) -> str | None:
    """Say what is wrong with a file that has a model's name and nothing of the model.

    Args:
        path: a file.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    if not head:
        return f"{path} is empty: get it again."
    if head == _LFS_POINTER:
        return (
            f"{path} only points to the file, which Git LFS keeps elsewhere: run `git lfs pull` "
            "where it was cloned, or download the file itself."
        )
    return None


def link_or_copy(source: Path, destination: Path, progress: Progress = silent) -> bool:
    """Make a file appear under another name, without taking space where that is possible.

    A link is a hard one to the file itself, whatever links lead to it: it stays when the source
    is removed. Where there can be none (another file system, no right to it) the file is copied.

    Args:
        source: a file, which is only read.
        destination: must not exist.
        progress: told while bytes are copied.

    Returns:
        Whether it is a link: then a change of the source changes it too.

    Raises:
        OSError: neither is possible; nothing is left behind.
    """
    source = source.resolve(strict=True)
    try:
        # A link to a link would point out of the directory.
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
            while piece := reader.read(_PIECE):
                writer.write(piece)
                done += len(piece)
                progress(f"copying {source.name}", done, size)
            writer.flush()
        except BaseException:
            destination.unlink(missing_ok=True)
            raise


def hash_file(path: Path, progress: Progress = silent) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest, done = hashlib.sha256(), 0
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            done += len(piece)
            progress(f"checking {path.name}", done, size)
    return digest.hexdigest()
