"""Writer of GGUF files in any type, with one tensor in memory at a time."""

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

from tests.sources.weights import Float32Array

PLAIN: Final = (Type.F32, Type.F16, Type.BF16)

_ROWS_VALUES: Final = 1 << 22  # quantised by a thread at a time
_THREADS: Final = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """Tensor to write."""

    name: str
    shape: tuple[int, ...]
    """Shape in numpy's order."""
    type: Type
    read: Callable[[], Float32Array]

    @property
    def n_bytes(self) -> int:
        """Size of the tensor in the file."""
        n_values, n_block_bytes = gguf.GGML_QUANT_SIZES[self.type]
        return int(np.prod(self.shape)) // n_values * n_block_bytes


def fits(shape: Sequence[int], kind: Type) -> bool:
    """Return whether the rows are a multiple of a type's block."""
    return bool(shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0)


def write_gguf(writer: gguf.GGUFWriter, path: Path, entries: Sequence[Entry]) -> None:
    """Write a file; `writer` already has the metadata."""
    for entry in entries:
        dtype = np.dtype(np.float32)  # used only without a raw type
        writer.add_tensor_info(entry.name, entry.shape, dtype, entry.n_bytes, raw_dtype=entry.type)
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in entries:
            writer.write_tensor_data(encode(entry.read(), entry.type))
    finally:
        writer.close()


def encode(values: Float32Array, kind: Type) -> npt.NDArray[Any]:
    """Convert values to a type, block types with ggml's own quantiser."""
    match kind:
        case Type.F32:
            return values
        case Type.F16:
            return values.astype(np.float16)
        case Type.BF16:
            return np.asarray(gguf.quants.quantize(values, kind))
        case _:
            return _quantize(np.ascontiguousarray(values), kind)


def _quantize(values: Float32Array, kind: Type) -> npt.NDArray[np.uint8]:
    width = values.shape[-1]
    rows = values.reshape(-1, width)
    n_values, n_block_bytes = gguf.GGML_QUANT_SIZES[kind]
    out = np.empty((len(rows), width // n_values * n_block_bytes), np.uint8)
    step = max(1, _ROWS_VALUES // width)

    def quantize_some(first: int) -> None:
        some = rows[first : first + step]
        written = _library().ggml_quantize_chunk(
            int(kind),
            some.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            out[first : first + step].ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(0),
            ctypes.c_int64(len(some)),
            ctypes.c_int64(width),
            None,
        )
        assert written == out[first : first + step].nbytes

    _library().ggml_quantize_init(int(kind))
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(quantize_some, range(0, len(rows), step)))
    return out.reshape(*values.shape[:-1], -1)


@cache
def _library() -> Any:
    directory = Path(llama_cpp.__file__).parent / "lib"
    library = ctypes.CDLL(str(next(directory.glob("libggml-base.*"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library
