"""Reader for GGUF files: a header with metadata and the list of tensors, then the tensors' bytes.

The package `gguf` has a reader, but it makes an array of every single string: seconds for a
vocabulary of 151,936 tokens. It also trusts the counts in a file. Here every count and length is
compared with the file's size before anything is allocated, and tensors stay in the file.

Source: docs/gguf.md of https://github.com/ggml-org/ggml; limits beyond it are llama.cpp's own (no
nested arrays, tensors without gaps), except that headers may not be larger than
`_MAX_HEADER_BYTES`.
"""

import contextlib
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.importing.tensors import Tensor

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)  # the only difference: 3 may be big-endian
_DEFAULT_ALIGNMENT: Final = 32  # bytes
_MAX_DIMENSIONS: Final = 4

_MAX_HEADER_BYTES: Final = 1 << 26  # the largest vocabularies take a quarter of it
_MAX_ELEMENTS: Final = 1 << 22  # in all arrays together
_MAX_ENTRIES: Final = 1 << 16  # of metadata, and of tensors

_UINT32: Final = 4
_STRING: Final = 8
_ARRAY: Final = 9
_BOOL: Final = 7
_NUMBERS: Final[dict[int, np.dtype[Any]]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    _UINT32: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    _BOOL: np.dtype("u1"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
"""Metadata types of a fixed size."""

_FLOATS: Final[dict[str, np.dtype[Any]]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_NOT_WEIGHTS: Final = ("I8", "I16", "I32", "I64", "F64")


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """Tensor whose values stay in the file until they are read; implements `Tensor`."""

    path: Path
    name: str
    stored_type: str
    """ggml's name of the type, such as `F16` or `Q4_K`."""
    shape: tuple[int, ...]
    """Shape in the order of numpy and PyTorch; the file lists it in reverse."""
    offset: int
    """Bytes from the start of the file."""
    n_bytes: int

    def stored(self) -> npt.NDArray[Any]:
        """Map the values as stored; block types are returned as the bytes of each row.

        Raises:
            ModelError: the file was removed or cut after its header was read.
        """
        dtype = _FLOATS.get(self.stored_type, np.dtype("u1"))
        count = self.n_bytes // dtype.itemsize
        try:
            values = np.memmap(self.path, dtype, "r", self.offset, (count,))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{self.path} was removed or cut while it was read", code="file_changed"
            ) from error
        is_plain = self.stored_type in _FLOATS
        return np.asarray(values).reshape(self.shape if is_plain else (*self.shape[:-1], -1))

    def float32(self) -> Float32Array:
        """Read all values as float32."""
        return to_float32(self, self.stored())

    def rows(self, begin: int, end: int) -> Float32Array:
        """Read some rows of a matrix as float32, without reading the others."""
        return to_float32(self, self.stored()[begin:end])

    def squeezed(self) -> "GGUFTensor":
        """Return the same tensor without trailing axes of size 1."""
        shape = self.shape
        while len(shape) > 1 and shape[-1] == 1:
            shape = shape[:-1]
        return replace(self, shape=shape)


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """Header of a GGUF: the metadata, and the positions of the tensors."""

    path: Path
    architecture: str
    """`general.architecture`; empty if the file does not state it."""
    metadata: Mapping[str, Any]
    """All entries by key: numbers, booleans, strings and lists of them. Bytes of a string that are
    not UTF-8 are replaced by U+FFFD."""
    tensors: dict[str, GGUFTensor]

    def integer(self, name: str, default: int | None = None) -> int:
        """Return a positive integer of 31 bits.

        Raises:
            ModelError: the value is not such a number, or is missing and there is no default.
        """
        value = self._value(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
            raise ModelError(
                f"{self.path}: {name} must be a positive integer, not {_short(value)}",
                code="metadata_value",
            )
        return value

    def number(self, name: str) -> float:
        """Return a number above 0.

        Raises:
            ModelError: the value is missing or not such a number.
        """
        value = self._value(name, None)
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ModelError(
                f"{self.path}: {name} must be a positive number, not {_short(value)}",
                code="metadata_value",
            )
        return float(value)

    def text(self, *names: str) -> str | None:
        """Return the first of several entries that is present and a string, else None."""
        values = (self.metadata.get(name) for name in names)
        return next((value for value in values if isinstance(value, str)), None)

    def texts(self, name: str) -> list[str]:
        """Return a list of strings; an empty list if it is absent.

        Raises:
            ModelError: the value is not a list of strings.
        """
        value = self.metadata.get(name, [])
        # All elements of an array have one type.
        if not isinstance(value, list) or (value and not isinstance(value[0], str)):
            raise ModelError(
                f"{self.path}: {name} must be a list of strings, not {_short(value)}",
                code="metadata_value",
            )
        return value

    def only(self, name: str, *allowed: object) -> None:
        """Refuse a value that would change the arithmetic; the entry may be absent.

        Raises:
            ModelError: the value is present and not an allowed one.
        """
        if name in self.metadata and self.metadata[name] not in allowed:
            value = _short(self.metadata[name])
            choices = " or ".join(map(str, allowed))
            raise ModelError(
                f"{self.path}: {name} = {value} is not supported; only {choices} is",
                code="setting_unsupported",
            )

    def _value(self, name: str, default: Any) -> Any:
        value = self.metadata.get(name, default)
        if value is None:
            raise ModelError(f"{self.path}: the metadata has no {name}", code="metadata_missing")
        return value


def _short(value: Any) -> str:
    text = repr(value[:3]) if isinstance(value, list) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def to_float32(tensor: Tensor, stored: npt.NDArray[Any]) -> Float32Array:
    """Convert stored values, or some rows of them, to float32.

    Args:
        tensor: origin of the values, of any file format.
        stored: whole rows of its stored values.

    Raises:
        ModelError: the tensor's type is not supported.
    """
    match tensor.stored_type:
        case "F32" | "F16":
            return stored.astype(np.float32, copy=False)
        case "BF16":
            return (stored.astype(np.uint32) << 16).view(np.float32)
    if tensor.stored_type not in _NOT_WEIGHTS:
        import gguf

        kind = gguf.GGMLQuantizationType[tensor.stored_type]
        # A damaged scale may be infinite; users of the values check that they are finite.
        with contextlib.suppress(NotImplementedError), np.errstate(all="ignore"):
            return np.asarray(gguf.quants.dequantize(stored, kind), np.float32)
    raise ModelError(
        f"{tensor.path}: tensor {tensor.name} is stored as {tensor.stored_type}, which is not "
        "supported",
        code="tensor_type_unsupported",
    )


def read_gguf(path: Path) -> GGUFFile:
    """Read the header of a GGUF file; memory and time depend on its real, not its claimed size.

    Raises:
        ModelError: the file cannot be read, is not a GGUF, is cut short, or contradicts itself.
    """
    try:
        if not path.exists():
            raise ModelError(f"{path} does not exist", code="file_missing")
        if not path.is_file():
            raise ModelError(
                f"{path} is not a regular file; give the path of a file or a folder",
                code="not_a_regular_file",
            )
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ModelError(
                    f"{path} is not a GGUF file; its first bytes are not 'GGUF'", code="not_gguf"
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(_Cursor(data, path))
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror})", code="file_unreadable"
        ) from error


class _Cursor:
    """Position in a header, with bounded reads from there."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.path = path
        self.position = 0
        self.file_size = len(data)
        self._data = data
        self._end = min(len(data), _MAX_HEADER_BYTES)
        self._n_elements_left = _MAX_ELEMENTS

    def take(self, count: int) -> bytes:
        begin = self.position
        if count > self._end - begin:
            raise self._past_end()
        self.position = begin + count
        return self._data[begin : self.position]

    def numbers(self, dtype: np.dtype[Any], count: int) -> list[Any]:
        self._count(count)
        values: list[Any] = np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()
        return values

    def number(self, dtype: np.dtype[Any]) -> Any:
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()

    def uint32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def uint64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def name(self, owner: str) -> str:
        """Read a string that must be UTF-8: a metadata key or a tensor's name."""
        data = self.take(self.uint64())
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ModelError(
                f"{self.path} is damaged, {owner} has a name that is not UTF-8; download it again.",
                code="gguf_damaged",
            ) from error

    def texts(self, count: int) -> list[str]:
        """Read strings in one plain loop: a language model's header has 300,000 of them."""
        self._count(count)
        data, position, end = self._data, self.position, self._end
        read_length = struct.Struct("<Q").unpack_from
        found = []
        for _ in range(count):
            begin = position + 8
            if begin > end:
                raise self._past_end()
            position = begin + read_length(data, position)[0]
            if position > end:
                raise self._past_end()
            found.append(str(data[begin:position], "utf-8", "replace"))
        self.position = position
        return found

    def _count(self, count: int) -> None:
        # The file's size is a limit, too; reading checks it.
        self._n_elements_left -= count
        if self._n_elements_left < 0:
            raise ModelError(
                f"{self.path}: the arrays of its header have more than {_MAX_ELEMENTS:,} elements, "
                "the limit for a model",
                code="header_too_large",
            )

    def _past_end(self) -> ModelError:
        if self._end < self.file_size:
            return ModelError(
                f"{self.path}: its header is longer than {_MAX_HEADER_BYTES:,} bytes, the limit "
                "for a model",
                code="header_too_large",
            )
        return ModelError(
            f"{self.path} is cut short or damaged, the GGUF ends within its header; download it "
            "again.",
            code="file_cut_short",
        )


def _read(cursor: _Cursor) -> GGUFFile:
    path = cursor.path
    cursor.take(len(_MAGIC))
    _check_version(cursor.uint32(), path)
    n_tensors, n_entries = cursor.uint64(), cursor.uint64()
    if max(n_tensors, n_entries) > _MAX_ENTRIES:
        raise ModelError(
            f"{path}: its header has {n_entries} entries and {n_tensors} tensors; the limit for a "
            f"model is {_MAX_ENTRIES:,} each",
            code="header_too_large",
        )
    metadata: dict[str, Any] = {}
    for _ in range(n_entries):
        name = cursor.name("an entry of the metadata")
        if name in metadata:
            raise ModelError(
                f"{path} is damaged, its metadata has {_short(name)} twice; download it again.",
                code="gguf_damaged",
            )
        metadata[name] = _read_value(cursor, name)
    architecture = metadata.get("general.architecture", "")
    if not isinstance(architecture, str):
        raise ModelError(
            f"{path}: general.architecture must be a string, not {_short(architecture)}",
            code="metadata_value",
        )
    tensors = _read_tensors(cursor, n_tensors, _alignment(metadata, path))
    return GGUFFile(path, architecture, metadata, tensors)


def _check_version(version: int, path: Path) -> None:
    if version in _VERSIONS:
        return
    if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
        raise ModelError(
            f"{path}: this GGUF is big-endian; convert the model to little-endian",
            code="gguf_big_endian",
        )
    raise ModelError(
        f"{path}: this GGUF has version {version}; only versions 2 and 3 are supported",
        code="gguf_version",
    )


def _read_value(cursor: _Cursor, name: str) -> Any:
    kind = cursor.uint32()
    if kind == _ARRAY:
        kind, count = cursor.uint32(), cursor.uint64()
        if kind == _STRING:
            return cursor.texts(count)
        if kind in _NUMBERS:
            values = cursor.numbers(_NUMBERS[kind], count)
            return [bool(value) for value in values] if kind == _BOOL else values
    elif kind == _STRING:
        return cursor.texts(1)[0]
    elif kind in _NUMBERS:
        value = cursor.number(_NUMBERS[kind])
        return bool(value) if kind == _BOOL else value
    raise ModelError(
        f"{cursor.path} is damaged, {_short(name)} has the unknown type {kind}; download it again.",
        code="gguf_damaged",
    )


def _alignment(metadata: Mapping[str, Any], path: Path) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    is_number = isinstance(alignment, int) and not isinstance(alignment, bool)
    if not is_number or alignment < 1 or alignment & (alignment - 1):
        raise ModelError(
            f"{path}: general.alignment must be a power of two, not {_short(alignment)}",
            code="metadata_value",
        )
    return int(alignment)


def _read_tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, GGUFTensor]:
    path = cursor.path
    tensors: dict[str, GGUFTensor] = {}
    expected = 0  # ggml accepts only tensors without gaps between them
    for _ in range(count):
        tensor = _read_tensor(cursor)
        if tensor.name in tensors:
            raise ModelError(
                f"{path} is damaged, tensor {_short(tensor.name)} occurs twice; download it again.",
                code="gguf_damaged",
            )
        if tensor.offset != expected:
            raise ModelError(
                f"{path} is damaged, tensor {_short(tensor.name)} begins at {tensor.offset} "
                f"instead of {expected}; download it again.",
                code="gguf_damaged",
            )
        tensors[tensor.name] = tensor
        expected = _aligned(tensor.offset + tensor.n_bytes, alignment)
    start = _aligned(cursor.position, alignment)
    end = max((start + tensor.offset + tensor.n_bytes for tensor in tensors.values()), default=0)
    if end > cursor.file_size:
        missing = end - cursor.file_size
        raise ModelError(
            f"{path} is cut short, {missing:,} bytes of the GGUF are missing; download it again.",
            code="file_cut_short",
        )
    return {name: replace(tensor, offset=start + tensor.offset) for name, tensor in tensors.items()}


def _read_tensor(cursor: _Cursor) -> GGUFTensor:
    path, name = cursor.path, cursor.name("a tensor")
    n_dimensions = cursor.uint32()
    if n_dimensions > _MAX_DIMENSIONS:
        raise ModelError(
            f"{path}: tensor {_short(name)} has {n_dimensions} axes; ggml's limit is "
            f"{_MAX_DIMENSIONS}",
            code="tensor_axes",
        )
    shape = tuple(cursor.uint64() for _ in range(n_dimensions))[::-1]
    kind, offset = cursor.uint32(), cursor.uint64()
    if kind not in _types():
        raise ModelError(
            f"{path}: tensor {_short(name)} has the type {kind}, which the installed package gguf "
            "does not know; a newer version may",
            code="tensor_type_unsupported",
        )
    stored_type, block, block_bytes = _types()[kind]
    if 0 in shape or (shape[-1] if shape else 1) % block:
        raise ModelError(
            f"{path}: tensor {_short(name)} has the shape {shape}, which {stored_type} cannot "
            "store",
            code="tensor_shape",
        )
    n_bytes = math.prod(shape) // block * block_bytes
    return GGUFTensor(path, name, stored_type, shape, offset, n_bytes)


@cache
def _types() -> Mapping[int, tuple[str, int, int]]:
    """Return the tensor types: name, values in a block, bytes of a block."""
    import gguf

    return {
        int(kind): (kind.name, block, n_bytes)
        for kind, (block, n_bytes) in gguf.GGML_QUANT_SIZES.items()
    }


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
