"""Writer of PyTorch checkpoints, without torch: a zip with a pickle and one record per storage.

Source: the file format notes of torch/serialization.py in PyTorch 2.13.
"""

import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

TorchType = Literal["F32", "F16", "BF16", "F64", "I64"]

_STORAGES: Final = {
    "F32": "FloatStorage",
    "F16": "HalfStorage",
    "BF16": "BFloat16Storage",
    "F64": "DoubleStorage",
    "I64": "LongStorage",
}


@dataclass(frozen=True, slots=True)
class Saved:
    """Tensor to save."""

    shape: tuple[int, ...]
    key: str
    """Record of its storage."""
    numel: int
    kind: TorchType = "F32"
    offset: int = 0
    strides: tuple[int, ...] | None = None
    """None for a contiguous tensor."""


def write_checkpoint(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], npt.NDArray[np.float32]],
    kind: TorchType = "F32",
    *,
    wrapper: str | None = None,
) -> None:
    """Write a state dictionary, with one tensor in memory at a time.

    Args:
        path: the file.
        shapes: shape of each tensor.
        read: returns a tensor.
        kind: type of the values.
        wrapper: key under which the weights are, in checkpoints of the training program.
    """
    tensors = {
        name: Saved(shape, str(number), int(np.prod(shape)), kind)
        for number, (name, shape) in enumerate(shapes.items())
    }
    with zipfile.ZipFile(path, "w") as archive:
        write_record(archive, "data.pkl", pickle_of(tensors, wrapper))
        write_record(archive, "byteorder", b"little")
        for name, tensor in tensors.items():
            write_record(archive, f"data/{tensor.key}", encode(read(name), kind))
        write_record(archive, "version", b"3\n")


def encode(values: npt.NDArray[Any], kind: TorchType) -> bytes:
    """Return the bytes of a storage."""
    match kind:
        case "F16":
            return values.astype("<f2").tobytes()
        case "BF16":
            return (values.astype("<f4").view(np.uint32) >> 16).astype("<u2").tobytes()
        case "F64":
            return values.astype("<f8").tobytes()
        case "I64":
            return values.astype("<i8").tobytes()
        case _:
            return values.astype("<f4").tobytes()


def write_record(
    archive: zipfile.ZipFile, name: str, content: bytes, folder: str = "archive"
) -> None:
    """Write a record as PyTorch does: not compressed, its content at a multiple of 64 bytes."""
    info = zipfile.ZipInfo(f"{folder}/{name}")
    assert archive.fp is not None
    begin = archive.fp.tell() + 30 + len(info.filename) + 4
    padding = -begin % 64
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(info, content, zipfile.ZIP_STORED)


# The pickle, instruction by instruction, as `torch.save` writes it (protocol 2)


def pickle_of(tensors: dict[str, Saved], wrapper: str | None = None) -> bytes:
    """Return the pickle of a state dictionary."""
    state = _ordered_dict(
        b"".join(_text(name) + tensor_code(tensor) for name, tensor in tensors.items())
    )
    # `_metadata` is an attribute of the dictionary.
    state += b"}" + _text("_metadata") + _ordered_dict(b"") + b"sb"
    if wrapper is None:
        return b"\x80\x02" + state + b"."
    return b"\x80\x02}(" + _text("epoch") + b"K\x07" + _text(wrapper) + state + b"u."


def tensor_code(tensor: Saved) -> bytes:
    """Return the instructions that rebuild a tensor."""
    storage = storage_code(_STORAGES[tensor.kind], tensor.key, tensor.numel)
    strides = contiguous(tensor.shape) if tensor.strides is None else tensor.strides
    sizes = _tuple(tensor.shape) + _tuple(strides)
    hooks = _ordered_dict(b"", is_filled=False)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (storage + _number(tensor.offset) + sizes + b"\x89" + hooks)
        + b"tR"
    )


def storage_code(kind: str, key: str, numel: int) -> bytes:
    """Return the instructions that refer to a storage."""
    identity = _text("storage") + f"ctorch\n{kind}\n".encode() + _text(key) + _text("cpu")
    return b"(" + identity + _number(numel) + b"tQ"


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides of values in the order of their indices."""
    return tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))


def _ordered_dict(items: bytes, *, is_filled: bool = True) -> bytes:
    filling = b"(" + items + b"u" if is_filled else b""
    return b"ccollections\nOrderedDict\n)R" + filling


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _tuple(numbers: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_number, numbers)) + b"t"


def _number(value: int) -> bytes:
    if 0 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
