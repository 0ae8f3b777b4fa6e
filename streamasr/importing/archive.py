"""Unpacking a zip of model files into a directory of our own.

What an archive claims is not believed: names are checked before anything is written, sizes before
and while it is written, and checksums by the standard library at the end of each file. Files that
no model needs are left in the archive, so an application that was packed with its model does no
harm, and archives within archives stay closed.
"""

import io
import os
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from streamasr.core.errors import ConfigError, ModelError
from streamasr.core.sizes import size_text
from streamasr.importing.placing import PARTIAL
from streamasr.importing.tensors import Progress, silent

_WEIGHTS: Final = frozenset({".onnx", ".data", ".gguf", ".safetensors"})
_TEXTS: Final = frozenset({".json", ".txt"})
_TEXT_NAMES: Final = frozenset({"LICENSE", "LICENCE", "README", "README.md"})

_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_IS_ENCRYPTED: Final = 0x1  # of a member's flags

_MAX_MEMBERS: Final = 1 << 12  # a model has a dozen files, an application around it a thousand
_MAX_READ_BYTES: Final = 1 << 22  # at once: of a list of members, kilobytes each
_MAX_NAME_BYTES: Final = 255  # of one part of a path, where most file systems end
_MAX_PARTS: Final = 16  # of a path
_MAX_TEXT_BYTES: Final = 1 << 26  # the largest vocabulary takes 12 MB
_MAX_RATIO: Final = 16  # of all that is unpacked to the archive; weights hardly shrink
_ALWAYS_ALLOWED: Final = 1 << 26  # bytes, whatever the ratio

_PIECE: Final = 1 << 20  # bytes
_RESERVE: Final = 1 << 26  # bytes to leave free on the disk

_OTHER_ARCHIVES: Final = {
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}
_TAR: Final = slice(257, 262)  # where tar has its magic
_HEAD_BYTES: Final = 262


def unpack(path: Path, directory: Path, progress: Progress = silent) -> None:
    """Unpack the members of a zip that a model may need.

    What has been unpacked when an error is raised stays there: it is for the caller to remove.

    Args:
        path: the archive, which is only read.
        directory: where to; it must be empty or missing, and nothing outside of it is written.
        progress: told how many bytes are unpacked.

    Raises:
        ModelError: the file is no zip, is damaged, is made to do harm, or holds no model.
        ConfigError: there is no room, or the directory cannot be written.
    """
    if (kind := name_other_archive(path)) is not None:
        raise ModelError(
            f"{path} is {kind}, and only zips can be read here: unpack it and name the folder."
        )
    try:
        with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
            members = _choose(archive.infolist(), path)
            _check_size(members, path)
            _check_room(members, path, directory)
            _extract_all(archive, members, directory, progress)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise ModelError(
            f"{path} is no zip, or it is damaged or cut short ({error}); get it again."
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be unpacked into {directory} ({error}).") from error


def name_other_archive(path: Path) -> str | None:
    """Say what kind of archive a file is if it is one that `unpack` cannot read."""
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is no file.")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    if head[_TAR] == b"ustar":
        return "a tar archive"
    kinds = (kind for magic, kind in _OTHER_ARCHIVES.items() if head.startswith(magic))
    return next(kinds, None)


class _Bounded(io.BufferedReader):
    """A file that is never read in large pieces: `zipfile` takes the list of members whole."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_READ_BYTES:
            raise zipfile.BadZipFile("its list of members is longer than any model's")
        return super().read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_SET and offset < 0:
            raise zipfile.BadZipFile("a member begins before the file")
        return super().seek(offset, whence)


def _choose(members: Sequence[zipfile.ZipInfo], path: Path) -> list[zipfile.ZipInfo]:
    """Check the names of all members, and pick those that a model may need."""
    if len(members) > _MAX_MEMBERS:
        raise ModelError(f"{path} has {len(members)} members, more than any model's archive.")
    for member in members:
        _check_name(member, path)
    _check_distinct(members, path)
    chosen = [member for member in members if _is_wanted(member)]
    if not any(_suffix(member) in _WEIGHTS for member in chosen):
        raise ModelError(f"{path} holds no model: there is no .onnx, .gguf or .safetensors in it.")
    for member in chosen:
        _check_member(member, path)
    return chosen


def _check_name(member: zipfile.ZipInfo, path: Path) -> None:
    """Refuse names that lead elsewhere, on this system or on another."""
    name = _name(member)
    parts = name.removesuffix("/").split("/")
    is_unsafe = (
        any(part in {"", ".", ".."} for part in parts)
        or any(character in name for character in ':*?"<>|')
        or any(unicodedata.category(character) in {"Cc", "Cs"} for character in name)
    )
    if is_unsafe:
        raise ModelError(
            f"{path} has a member with an unsafe name, {name[:80]!r}; none is unpacked."
        )
    is_long = any(len(part.encode()) > _MAX_NAME_BYTES for part in parts)
    if is_long or len(parts) > _MAX_PARTS:
        raise ModelError(f"{path} has a member with a name that is too long, {name[:80]!r}.")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise ModelError(f"{path} has a member that is a link or a device, {name!r}.")


def _name(member: zipfile.ZipInfo) -> str:
    """Where a member belongs, whole: `filename` ends at the first null byte.

    Some programs of Windows write backslashes between the folders.
    """
    return member.orig_filename.replace("\\", "/")


def _check_distinct(members: Sequence[zipfile.ZipInfo], path: Path) -> None:
    """Refuse two members for one place, also where file systems do not tell case."""
    taken: set[str] = set()
    folders: set[str] = set()
    for member in members:
        key = unicodedata.normalize("NFC", _name(member)).casefold()
        if key in taken:
            raise ModelError(f"{path} has two members of one name, {member.filename!r}.")
        taken.add(key)
        folders.update(str(parent) for parent in PurePosixPath(key).parents)
    if clashes := taken & folders:
        raise ModelError(f"{path} has a file and a folder of one name, {min(clashes)!r}.")


def _is_wanted(member: zipfile.ZipInfo) -> bool:
    """Tell what a model may need; hidden files are what systems leave in archives."""
    path = PurePosixPath(_name(member))
    if _name(member).endswith("/") or any(
        part.startswith((".", "__MACOSX")) for part in path.parts
    ):
        return False
    return _suffix(member) in _WEIGHTS | _TEXTS or path.name in _TEXT_NAMES


def _suffix(member: zipfile.ZipInfo) -> str:
    return PurePosixPath(_name(member)).suffix.lower()


def _check_member(member: zipfile.ZipInfo, path: Path) -> None:
    name = member.filename
    if member.flag_bits & _IS_ENCRYPTED:
        raise ModelError(f"{path} is encrypted: unpack it and name the folder.")
    if member.compress_type not in _METHODS:
        raise ModelError(
            f"{path} packs {name} in a way that cannot be read here (method "
            f"{member.compress_type}): unpack it and name the folder."
        )
    if _suffix(member) not in _WEIGHTS and member.file_size > _MAX_TEXT_BYTES:
        raise ModelError(
            f"{path} holds {name} of {size_text(member.file_size)}: no model has that."
        )


def _check_size(members: Sequence[zipfile.ZipInfo], path: Path) -> None:
    """Refuse an archive that claims to hold far more than it can: a bomb."""
    size, total = path.stat().st_size, sum(member.file_size for member in members)
    if total > max(_ALWAYS_ALLOWED, _MAX_RATIO * size):
        raise ModelError(
            f"{path} has {size_text(size)} and claims to hold {size_text(total)}, which no "
            "archive of a model does."
        )


def _check_room(members: Sequence[zipfile.ZipInfo], path: Path, directory: Path) -> None:
    place = _named_place(directory)
    free = shutil.disk_usage(place).free
    needed = sum(member.file_size for member in members)
    if needed + _RESERVE > free:
        raise ConfigError(
            f"unpacking {path.name} takes {size_text(needed)}, {size_text(_RESERVE)} shall stay "
            f"free, and there are {size_text(free)} in {place}."
        )


def _named_place(directory: Path) -> Path:
    """The nearest directory that is there and that a user knows: no hidden one of ours."""
    parents = (directory, *directory.parents)
    return next(
        parent
        for parent in parents
        if parent.exists() and not any(part.endswith(PARTIAL) for part in parent.parts)
    )


def _extract_all(
    archive: zipfile.ZipFile,
    members: Sequence[zipfile.ZipInfo],
    directory: Path,
    progress: Progress,
) -> None:
    total, done = sum(member.file_size for member in members), 0
    for member in members:
        destination = directory.joinpath(*PurePosixPath(_name(member)).parts)
        destination.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as reader, destination.open("xb") as writer:
            written = 0
            while piece := reader.read(_PIECE):
                written += len(piece)
                if written > member.file_size:
                    raise zipfile.BadZipFile(f"{member.filename} is larger than it says")
                writer.write(piece)
                done += len(piece)
                progress(f"unpacking {destination.name}", done, total)
            if written != member.file_size:
                raise zipfile.BadZipFile(f"{member.filename} is smaller than it says")
