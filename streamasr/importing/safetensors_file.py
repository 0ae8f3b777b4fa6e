"""Reader for safetensors files: a length, a JSON header, then the tensors' bytes.

The package `safetensors` has no bfloat16 for numpy, and released checkpoints are bfloat16; the
format is simple enough to read here.
Source: https://github.com/huggingface/safetensors (format section of its README).
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.importing.files import placeholder_error

StoredType = Literal["F32", "F16", "BF16"]

_ITEM_TYPES: Final[dict[str, npt.DTypeLike]] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_LENGTH_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 100_000_000  # the limit that the format sets
_MAX_AXES: Final = 8  # a convolution's weight has 4
_MAX_SHOWN: Final = 100  # characters of a name in an error message


@dataclass(frozen=True, slots=True)
class SafeTensor:
    """Tensor whose values stay in the file until they are read; implements `Tensor`."""

    path: Path
    name: str
    stored_type: StoredType
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""

    def stored(self) -> npt.NDArray[Any]:
        """Map the values as stored; bfloat16 is returned as its 16 bits, uint16.

        Raises:
            ModelError: the file was removed or cut after its header was read.
        """
        count = math.prod(self.shape)
        dtype = _ITEM_TYPES[self.stored_type]
        try:
            values = np.memmap(self.path, dtype, "r", self.offset, shape=(count,))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{self.path} was removed or cut while it was read", code="file_changed"
            ) from error
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
        ModelError: the file is missing, damaged, or contains a tensor that is not float.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelError(
                f"{path} is not a regular file; replace it by the file itself",
                code="not_a_regular_file",
            )
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 2 <= length <= min(size - _LENGTH_BYTES, _MAX_HEADER_BYTES):
                raise placeholder_error(path) or _not_safetensors(path, "its first bytes are wrong")
            header = json.loads(file.read(length))
    except RecursionError as error:
        raise _not_safetensors(path, "its header is nested too deeply") from error
    except ValueError as error:
        raise _not_safetensors(path, f"its header is not JSON: {error}") from error
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist", code="file_missing") from error
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read ({error.strerror})", code="file_unreadable"
        ) from error
    if not isinstance(header, dict):
        raise _not_safetensors(path, "its header is not a JSON object")
    start = _LENGTH_BYTES + length
    return {
        name: _parse_entry(path, name, entry, start, size)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _not_safetensors(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"{path} is not a safetensors file or is damaged, {reason}; download it again.",
        code="not_safetensors",
    )


def _parse_entry(path: Path, name: str, entry: Any, start: int, size: int) -> SafeTensor:
    shown = name if name.isprintable() and len(name) <= _MAX_SHOWN else ascii(name)[:100]
    try:
        stored_type, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        item_bytes = np.dtype(_ITEM_TYPES[stored_type]).itemsize
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: the entry of tensor {shown} is invalid, or its type is not one of "
            f"{', '.join(_ITEM_TYPES)}",
            code="tensor_entry_invalid",
        ) from error
    # Python accepts the JSON values true and 1.0 as integers; the format does not.
    if not all(type(number) is int for number in (*shape, begin, end)) or min(shape, default=1) < 1:
        raise ModelError(
            f"{path}: tensor {shown} has sizes that are not positive integers, {shape!r:.60}",
            code="tensor_entry_invalid",
        )
    if len(shape) > _MAX_AXES:
        raise ModelError(
            f"{path}: tensor {shown} has {len(shape)} axes; the limit is {_MAX_AXES}",
            code="tensor_axes",
        )
    if end - begin != math.prod(shape) * item_bytes or begin < 0 or start + end > size:
        raise ModelError(
            f"{path} is cut short or damaged at tensor {shown}; download it again.",
            code="file_cut_short",
        )
    return SafeTensor(path, name, stored_type, shape, start + begin)
