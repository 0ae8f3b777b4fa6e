"""Reader for PyTorch checkpoints, without torch: a zip with a pickle and one record per storage.

The pickle describes tensors as parts of storages; `torch_pickle.py` interprets it and calls nothing
in it. The records are not compressed, so tensors are mapped from the file when they are needed.
Names, sizes and positions are compared with the file before anything is read.

Source: torch/serialization.py of PyTorch 2.13, and caffe2/serialize/inline_container.cc, for the
records `data.pkl`, `byteorder` and `data/N`.
"""

import math
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.importing.archive import BoundedFile
from streamasr.importing.files import placeholder_error
from streamasr.importing.torch_pickle import PickleError, Storage, Strided, load

_DTYPES: Final[dict[str, tuple[str, str]]] = {
    "FloatStorage": ("F32", "<f4"),
    "HalfStorage": ("F16", "<f2"),
    "BFloat16Storage": ("BF16", "<u2"),
    "DoubleStorage": ("F64", "<f8"),
    "LongStorage": ("I64", "<i8"),
    "IntStorage": ("I32", "<i4"),
    "ShortStorage": ("I16", "<i2"),
    "CharStorage": ("I8", "i1"),
    "ByteStorage": ("U8", "u1"),
    "BoolStorage": ("BOOL", "?"),
}
"""PyTorch's classes: our name of the type, numpy's type of the stored values."""
_FLOATS: Final = frozenset({"F32", "F16", "BF16", "F64"})

_PICKLE: Final = "data.pkl"
_WRAPPERS: Final = ("state_dict", "model", "model_state_dict", "module", "params", "net")
"""Keys under which training programs store the weights beside other things."""
_PARALLEL: Final = "module."
"""Prefix of the names in checkpoints of parallel training."""

_SUFFIXES: Final = frozenset({".pt", ".pth"})

_MAX_PICKLE_BYTES: Final = 1 << 24  # a model of 1000 tensors takes 200 kB
_MAX_RECORDS: Final = 1 << 16
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")
"""Of a record: signature, and the lengths of its name and of its extra field."""
_LOCAL_SIGNATURE: Final = b"PK\x03\x04"
_LEGACY: Final = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""Begin of checkpoints before PyTorch 1.6: a pickled magic number."""


@dataclass(frozen=True, slots=True)
class TorchTensor:
    """Tensor whose values stay in the file until they are read; implements `Tensor`."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    """Type in the file: that of `Tensor`, or `F64`, or one of integers."""
    strides: tuple[int, ...]
    """Distances of neighbours in the storage along each axis, in values."""
    offset: int
    """Position of the storage in the file, in bytes."""
    first: int
    """Index of the first value in the storage."""
    numel: int
    """Number of values in the storage."""

    @property
    def stored_type(self) -> str:
        """Type of the values of `stored`."""
        return "F32" if self.dtype == "F64" else self.dtype

    def stored(self) -> npt.NDArray[Any]:
        """Map the values as stored; bfloat16 as its 16 bits, float64 rounded to float32.

        Raises:
            ModelError: the file was removed or cut after its list of records was read.
        """
        numpy_type = next(stored for name, stored in _DTYPES.values() if name == self.dtype)
        try:
            values = np.memmap(self.path, numpy_type, "r", self.offset, (self.numel,))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{self.path} was removed or cut while it was read", code="file_changed"
            ) from error
        if is_contiguous(self.shape, self.strides):
            part = values[self.first : self.first + math.prod(self.shape)].reshape(self.shape)
        else:
            steps = [stride * values.itemsize for stride in self.strides]
            part = np.lib.stride_tricks.as_strided(values[self.first :], self.shape, steps)
            part = np.ascontiguousarray(part)
        with np.errstate(over="ignore"):  # the values may exceed float32 in a damaged file
            return np.asarray(part.astype(np.float32) if self.dtype == "F64" else part)

    def float32(self) -> Float32Array:
        """Read the values as float32.

        Raises:
            ModelError: the tensor does not hold floating-point numbers.
        """
        if self.dtype not in _FLOATS:
            raise ModelError(
                f"{self.path}: tensor {self.name} has the type {self.dtype}; weights are "
                "floating-point numbers",
                code="tensor_type_unsupported",
            )
        stored = self.stored()
        if self.dtype == "BF16":
            return (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32, copy=False)


def is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Return whether values are stored in the order of their indices, without gaps."""
    expected = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def is_torch_file(path: Path) -> bool:
    """Return whether a file is a PyTorch checkpoint, of the current or the old format.

    A damaged zip counts as one if its name says so.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(_LEGACY))
        if head == _LEGACY:
            return True
        if not head.startswith(_LOCAL_SIGNATURE):
            return False
        with BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            return any(_is_pickle(name) for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return path.suffix.lower() in _SUFFIXES
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}.", code="file_unreadable"
        ) from error


def _is_pickle(name: str) -> bool:
    return name.count("/") == 1 and name.endswith(f"/{_PICKLE}")


def read_state_dict(path: Path) -> dict[str, TorchTensor]:
    """List the tensors of a checkpoint's state dictionary; values stay in the file.

    Raises:
        ModelError: the file is missing, damaged, of an unsupported format, or not a checkpoint of
            weights.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_LEGACY)) == _LEGACY:
                raise ModelError(
                    f"{path} is a checkpoint in the format of PyTorch before version 1.6, which "
                    "is not supported; load it with torch.load and save it with torch.save.",
                    code="torch_legacy",
                )
        records = _read_records(path)
        content = load(_pickle_of(path, records))
    except PickleError as error:
        raise ModelError(
            f"{path} is not a checkpoint of weights, or is damaged: {error}; nothing in it was "
            "run. Use a file from the model's publisher.",
            code="torch_pickle",
        ) from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise placeholder_error(path) or ModelError(
            f"{path} is not a PyTorch checkpoint, or is damaged or cut short ({error!s:.200}); "
            "download it again.",
            code="torch_damaged",
        ) from error
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist", code="file_missing") from error
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror})", code="file_unreadable"
        ) from error
    found = _find_tensors(content, path)
    return {name: _tensor(path, name, tensor, records) for name, tensor in found.items()}


@dataclass(frozen=True, slots=True)
class _Record:
    """Position of a record's content in the file."""

    offset: int
    size: int


def _read_records(path: Path) -> Mapping[str, _Record]:
    """List the records by their names within the archive's folder.

    Raises:
        zipfile.BadZipFile: the archive contradicts itself.
        ModelError: it has records that `torch.save` does not write.
    """
    with BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > _MAX_RECORDS:
            raise zipfile.BadZipFile(f"it has {len(members)} records")
        folders = {member.filename.partition("/")[0] for member in members}
        if len(folders) != 1:
            raise zipfile.BadZipFile("its records are not in one folder")
        records: dict[str, _Record] = {}
        for member in members:
            name = member.filename.partition("/")[2]
            if name in records:
                raise zipfile.BadZipFile(f"it has the record {name!r} twice")
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 0x1:
                raise ModelError(
                    f"{path} is compressed or encrypted, which torch.save does not do; load it "
                    "with torch.load and save it with torch.save.",
                    code="torch_compressed",
                )
            if member.file_size != member.compress_size:
                raise zipfile.BadZipFile(f"the record {name!r} has two sizes")
            file.seek(member.header_offset)
            header = file.read(_LOCAL_HEADER.size)
            if len(header) != _LOCAL_HEADER.size:
                raise zipfile.BadZipFile(f"the record {name!r} is not in the file")
            signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
            if signature != _LOCAL_SIGNATURE:
                raise zipfile.BadZipFile(f"the record {name!r} does not begin as stated")
            offset = member.header_offset + _LOCAL_HEADER.size + name_length + extra_length
            records[name] = _Record(offset, member.file_size)
        _check_apart(records, archive.start_dir)
    return records


def _check_apart(records: Mapping[str, _Record], limit: int) -> None:
    """Refuse records that share bytes or reach into the list of records."""
    end = 0
    for record in sorted(records.values(), key=lambda each: each.offset):
        if record.size and record.offset < end:
            raise zipfile.BadZipFile("two of its records overlap")
        end = max(end, record.offset + record.size)
    if end > limit:
        raise zipfile.BadZipFile("a record is longer than the file")


def _pickle_of(path: Path, records: Mapping[str, _Record]) -> bytes:
    if any(name.startswith("code/") or name == "constants.pkl" for name in records):
        raise ModelError(
            f"{path} is a TorchScript program, not a checkpoint of weights; use the file model.pt "
            "of the original model.",
            code="torch_script",
        )
    order = _read(path, records.get("byteorder", _Record(0, 0)), 64)
    if order.strip() not in (b"", b"little"):
        raise ModelError(
            f"{path} was saved on a big-endian machine, which is not supported; save it again on "
            "a usual one.",
            code="torch_big_endian",
        )
    if _PICKLE not in records:
        raise zipfile.BadZipFile(f"it has no record {_PICKLE}")
    return _read(path, records[_PICKLE], _MAX_PICKLE_BYTES)


def _read(path: Path, record: _Record, limit: int) -> bytes:
    if record.size > limit:
        raise zipfile.BadZipFile(f"a record has {record.size:,} bytes; the limit is {limit:,}")
    with path.open("rb") as file:
        file.seek(record.offset)
        return file.read(record.size)


def _find_tensors(content: Any, path: Path) -> dict[str, Strided]:
    """Return the tensors of the dictionary that contains most of them."""
    candidates = [found for found in _dictionaries(content, 2) if found]
    if not candidates:
        raise ModelError(
            f"{path} does not contain weights: no dictionary of tensors is in it, nor under one "
            f"of the keys {', '.join(_WRAPPERS)}.",
            code="torch_no_weights",
        )
    best = max(candidates, key=len)
    if all(name.startswith(_PARALLEL) for name in best):
        best = {name.removeprefix(_PARALLEL): tensor for name, tensor in best.items()}
    return best


def _dictionaries(content: Any, depth: int) -> Iterator[dict[str, Strided]]:
    if not isinstance(content, dict):
        return
    yield {n: t for n, t in content.items() if isinstance(n, str) and isinstance(t, Strided)}
    for key in _WRAPPERS if depth else ():
        yield from _dictionaries(content.get(key), depth - 1)


def _tensor(path: Path, name: str, strided: Strided, records: Mapping[str, _Record]) -> TorchTensor:
    """Check the description of a tensor against the records."""
    shown = name if name.isprintable() and len(name) <= 100 else ascii(name)[:100]
    storage = strided.storage
    if storage.dtype not in _DTYPES:
        raise ModelError(
            f"{path}: tensor {shown} has the unknown type {storage.dtype[:40]!r}",
            code="tensor_type_unsupported",
        )
    dtype, numpy_type = _DTYPES[storage.dtype]
    record = _record_of(storage, records)
    shape, strides = strided.shape, strided.strides
    has_sizes = len(shape) == len(strides) and min(shape, default=1) >= 0
    last = strided.offset + sum(
        (length - 1) * stride for length, stride in zip(shape, strides, strict=False)
    )
    count = math.prod(shape)
    is_inside = (
        has_sizes
        and min((strided.offset, *strides)) >= 0
        and count <= storage.numel
        and (not count or last < storage.numel)
        and record is not None
        and record.size == storage.numel * np.dtype(numpy_type).itemsize
    )
    if not is_inside or record is None:
        raise ModelError(
            f"{path} is damaged, tensor {shown} is not within its storage; download it again.",
            code="tensor_outside",
        )
    return TorchTensor(
        path, name, shape, dtype, strides, record.offset, strided.offset, storage.numel
    )


def _record_of(storage: Storage, records: Mapping[str, _Record]) -> _Record | None:
    return records.get(f"data/{storage.key}")
