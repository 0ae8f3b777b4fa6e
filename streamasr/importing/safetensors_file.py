"""Reading safetensors: a length, a JSON header, then the tensors' bytes.

The package `safetensors` has no bfloat16 for numpy, and released checkpoints are
bfloat16; the format is simple enough to read here.
Source: https://github.com/huggingface/safetensors (format section of its README).
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from streamasr.errors import ModelError
from streamasr.units import Float32Array

StoredType = Literal["F32", "F16", "BF16"]

_ITEM_TYPES: Final[dict[str, npt.DTypeLike]] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_LENGTH_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 100_000_000  # the limit that the format sets


@dataclass(frozen=True, slots=True)
class SafeTensor:
    """A tensor that stays in its file until it is asked for."""

    path: Path
    name: str
    stored_type: StoredType
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""

    def stored(self) -> npt.NDArray[Any]:
        """Map the values as they are stored; bfloat16 shows as its 16 bits, uint16."""
        count = math.prod(self.shape)
        dtype = _ITEM_TYPES[self.stored_type]
        values = np.memmap(self.path, dtype, "r", self.offset, shape=(count,))
        return np.asarray(values).reshape(self.shape)

    def float32(self) -> Float32Array:
        """Read the values as float32, which is exact for every stored type."""
        stored = self.stored()
        if self.stored_type == "BF16":
            return (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32, copy=False)


def read_header(path: Path) -> dict[str, SafeTensor]:
    """List the tensors of one file.

    Raises:
        ModelError: the file is missing, broken, or holds a tensor that is no float.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 2 <= length <= min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
                raise ModelError(f"{path}: this is not a safetensors file")
            header = json.loads(file.read(length))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as safetensors ({error})") from error
    start = _LENGTH_BYTES + length
    return {
        name: _parse_entry(path, name, entry, start, size)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _parse_entry(path: Path, name: str, entry: Any, start: int, size: int) -> SafeTensor:
    try:
        stored_type, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        n_bytes = math.prod(shape) * np.dtype(_ITEM_TYPES[stored_type]).itemsize
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: tensor {name} is not a float tensor as expected") from error
    if end - begin != n_bytes or begin < 0 or start + end > size:
        raise ModelError(f"{path}: the file is cut short or broken at tensor {name}")
    return SafeTensor(path, name, stored_type, shape, start + begin)
