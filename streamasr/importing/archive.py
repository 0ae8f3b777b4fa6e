"""Extraction of model files from a zip into a directory of our own.

The archive is not trusted: names are checked before anything is written, sizes before and during
writing, and checksums by the standard library at the end of each file. Files that no model needs
are not extracted, so an archive that also contains an application is harmless; archives within the
archive are not opened.
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
from streamasr.importing.atomic import PARTIAL
from streamasr.importing.tensors import Progress, ignore_progress

_WEIGHTS: Final = frozenset({".onnx", ".data", ".gguf", ".safetensors", ".pt", ".pb"})
_TEXTS: Final = frozenset({".json", ".txt", ".yaml", ".mvn"})
_TEXT_NAMES: Final = frozenset({"LICENSE", "LICENCE", "README", "README.md"})

_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_IS_ENCRYPTED: Final = 0x1  # bit in the flags of a member

_MAX_MEMBERS: Final = 1 << 12  # a model has a dozen files, an application around it a thousand
_MAX_READ_BYTES: Final = 1 << 22  # in one read; a list of members takes kilobytes per member
_MAX_NAME_BYTES: Final = 255  # one component of a path; the limit of most file systems
_MAX_PARTS: Final = 16  # components of a path
_MAX_TEXT_BYTES: Final = 1 << 26  # the largest vocabulary takes 12 MB
_MAX_RATIO: Final = 16  # extracted bytes to archive bytes; weights hardly compress
_ALWAYS_ALLOWED: Final = 1 << 26  # extracted bytes, independent of the ratio

_BUFFER_BYTES: Final = 1 << 20
_RESERVE: Final = 1 << 26  # bytes to leave free on the disk

_OTHER_ARCHIVES: Final = {
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}
_TAR: Final = slice(257, 262)  # position of tar's magic bytes
_HEAD_BYTES: Final = 262


def unpack(path: Path, directory: Path, progress: Progress = ignore_progress) -> None:
    """Extract the members of a zip that a model may need.

    Files extracted before an error stay in the directory; the caller removes them.

    Args:
        path: the archive, which is only read.
        directory: destination; it must be empty or missing, and nothing outside of it is written.
        progress: called with the number of extracted bytes.

    Raises:
        ModelError: the file is not a zip, is damaged or malicious, or does not contain a model.
        ConfigError: the disk is too full, or the directory cannot be written.
    """
    if (kind := name_other_archive(path)) is not None:
        raise ModelError(
            f"{path} is {kind}, and streamasr unpacks only zips; unpack it and give the path of "
            "the folder.",
            code="archive_format",
        )
    try:
        with BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            members = _choose(archive.infolist(), path)
            _check_size(members, path)
            _check_room(members, path, directory)
            _extract_all(archive, members, directory, progress)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise ModelError(
            f"{path} is not a zip, or is damaged or cut short ({error!s:.200}); download it again.",
            code="archive_damaged",
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be unpacked into {directory} ({error}).", code="archive_not_extracted"
        ) from error


def name_other_archive(path: Path) -> str | None:
    """Return the format of an archive that `unpack` cannot read, as a phrase; None otherwise.

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
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}.", code="file_unreadable"
        ) from error
    if head[_TAR] == b"ustar":
        return "a tar archive"
    kinds = (kind for magic, kind in _OTHER_ARCHIVES.items() if head.startswith(magic))
    return next(kinds, None)


class BoundedFile(io.BufferedReader):
    """File with a limit on the size of a read: `zipfile` reads the list of members in one piece."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))

    def read(self, size: int | None = -1, /) -> bytes:
        """Read; raise `BadZipFile` above the limit."""
        if size is not None and size > _MAX_READ_BYTES:
            raise zipfile.BadZipFile(f"its list of members exceeds {_MAX_READ_BYTES:,} bytes")
        return super().read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Seek; raise `BadZipFile` before the begin."""
        if whence == os.SEEK_SET and offset < 0:
            raise zipfile.BadZipFile("a member begins before the file")
        return super().seek(offset, whence)


def _choose(members: Sequence[zipfile.ZipInfo], path: Path) -> list[zipfile.ZipInfo]:
    """Check the names of all members and return the members that a model may need."""
    if len(members) > _MAX_MEMBERS:
        raise ModelError(
            f"{path} has {len(members)} members; at most {_MAX_MEMBERS} are accepted. Unpack it "
            "and give the path of the folder with the model.",
            code="archive_too_many_members",
        )
    for member in members:
        _check_name(member, path)
    _check_distinct(members, path)
    chosen = [member for member in members if _is_wanted(member)]
    if not any(_suffix(member) in _WEIGHTS for member in chosen):
        raise ModelError(
            f"{path} does not contain a .onnx, .gguf, .safetensors or .pt file.",
            code="archive_without_model",
        )
    for member in chosen:
        _check_member(member, path)
    return chosen


def _check_name(member: zipfile.ZipInfo, path: Path) -> None:
    """Refuse names that lead out of the directory, on this system or on another."""
    name = _name(member)
    parts = name.removesuffix("/").split("/")
    is_unsafe = (
        any(part in {"", ".", ".."} for part in parts)
        or any(character in name for character in ':*?"<>|')
        or any(unicodedata.category(character) in {"Cc", "Cs"} for character in name)
    )
    if is_unsafe:
        raise ModelError(
            f"{path} has a member with an unsafe name, {name[:80]!r}; nothing was unpacked.",
            code="archive_unsafe_name",
        )
    is_long = any(len(part.encode()) > _MAX_NAME_BYTES for part in parts)
    if is_long or len(parts) > _MAX_PARTS:
        raise ModelError(
            f"{path} has a member whose name is too long, {name[:80]!r}.",
            code="archive_name_too_long",
        )
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise ModelError(
            f"{path} has a member that is a link or a device, {name!r}.",
            code="archive_special_member",
        )


def _name(member: zipfile.ZipInfo) -> str:
    """Return the complete path of a member; `filename` would end at the first null byte.

    Some Windows programs separate folders by backslashes.
    """
    return member.orig_filename.replace("\\", "/")


def _check_distinct(members: Sequence[zipfile.ZipInfo], path: Path) -> None:
    """Refuse two members with the same path, also on file systems that ignore case."""
    taken: set[str] = set()
    folders: set[str] = set()
    for member in members:
        key = unicodedata.normalize("NFC", _name(member)).casefold()
        if key in taken:
            raise ModelError(
                f"{path} has two members with the same name, {member.filename!r}.",
                code="archive_duplicate_name",
            )
        taken.add(key)
        folders.update(str(parent) for parent in PurePosixPath(key).parents)
    if clashes := taken & folders:
        raise ModelError(
            f"{path} has a file and a folder with the same name, {min(clashes)!r}.",
            code="archive_duplicate_name",
        )


def _is_wanted(member: zipfile.ZipInfo) -> bool:
    """Return whether a model may need a member; hidden files come from operating systems."""
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
        raise ModelError(
            f"{path} is encrypted; unpack it and give the path of the folder.",
            code="archive_encrypted",
        )
    if member.compress_type not in _METHODS:
        raise ModelError(
            f"{path} compresses {name} with method {member.compress_type}, which is not supported; "
            "unpack it and give the path of the folder.",
            code="archive_compression",
        )
    if _suffix(member) not in _WEIGHTS and member.file_size > _MAX_TEXT_BYTES:
        raise ModelError(
            f"{path} contains {name} of {size_text(member.file_size)}; at most "
            f"{size_text(_MAX_TEXT_BYTES)} are accepted for a file without weights.",
            code="archive_text_too_large",
        )


def _check_size(members: Sequence[zipfile.ZipInfo], path: Path) -> None:
    """Refuse an archive that claims far more content than is plausible (a zip bomb)."""
    size, total = path.stat().st_size, sum(member.file_size for member in members)
    if total > max(_ALWAYS_ALLOWED, _MAX_RATIO * size):
        raise ModelError(
            f"{path} has {size_text(size)} and claims to contain {size_text(total)}; a ratio above "
            f"{_MAX_RATIO} is refused, because the weights of a model hardly compress.",
            code="archive_bomb",
        )


def _check_room(members: Sequence[zipfile.ZipInfo], path: Path, directory: Path) -> None:
    existing = _existing_parent(directory)
    free = shutil.disk_usage(existing).free
    needed = sum(member.file_size for member in members)
    if needed + _RESERVE > free:
        raise ConfigError(
            f"{existing} has {size_text(free)} free; unpacking {path.name} needs "
            f"{size_text(needed)}, and {size_text(_RESERVE)} must stay free. Free some space.",
            code="disk_full",
        )


def _existing_parent(directory: Path) -> Path:
    """Return the nearest existing directory that the user knows, not a temporary one of ours."""
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
            while buffer := reader.read(_BUFFER_BYTES):
                written += len(buffer)
                if written > member.file_size:
                    raise zipfile.BadZipFile(f"{member.filename} is larger than stated")
                writer.write(buffer)
                done += len(buffer)
                progress(f"unpacking {destination.name}", done, total)
            if written != member.file_size:
                raise zipfile.BadZipFile(f"{member.filename} is smaller than stated")
