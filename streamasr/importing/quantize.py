"""Quantisation: int8 linear layers for encoders, q8_0 and q4_k for decoders."""

import os
import threading
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.importing.gguf_file import read_gguf
from streamasr.importing.tensors import Progress, ignore_progress

QuantizedWidth = Literal["f32", "f16", "q8_0", "q4_k"]

_MAX_WEIGHT: Final = 64  # of a quantised weight: 7 of the 8 bits

_BUFFER_BYTES: Final = 1 << 26
"""Size of the rows in llama.cpp's memory at a time. By default llama.cpp reads whole tensors: 940
MB instead of 270 for the 0.6B model, with the same result."""

_REPORT_INTERVAL: Final = 0.3
"""Seconds between two progress reports."""

_FILE_TYPES: Final[dict[QuantizedWidth, str]] = {
    "f32": "LLAMA_FTYPE_ALL_F32",
    "f16": "LLAMA_FTYPE_MOSTLY_F16",
    "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
    "q4_k": "LLAMA_FTYPE_MOSTLY_Q4_K_M",
}


def quantize_rows(weight: Float32Array) -> tuple[npt.NDArray[np.int8], Float32Array]:
    """Quantise a linear layer's matrix, with one scale for each output.

    Weights are signed, symmetric and use 7 of the 8 bits: the fast kernels multiply unsigned
    activations with signed weights and add pairs in 16 bits, which overflows with 8-bit weights on
    processors without VNNI, so results would depend on the machine. On a processor with VNNI this
    form takes about a third of float32's time, and unsigned weights almost all of it. The values
    equal those of onnxruntime's own quantiser, which holds several copies of the model in memory.

    Args:
        weight: (out, in).

    Returns:
        (out, in) and (out,); their product is the weight.
    """
    scales = np.abs(weight).max(axis=1) / np.float32(_MAX_WEIGHT)
    scales[scales < np.finfo(np.float32).tiny] = 1  # a row of zeros
    values = np.rint(weight / scales[:, None])
    return np.clip(values, -_MAX_WEIGHT, _MAX_WEIGHT).astype(np.int8), scales


def quantize_decoder(
    source: Path, destination: Path, width: QuantizedWidth, progress: Progress = ignore_progress
) -> None:
    """Quantise a GGUF with llama.cpp's quantiser, one tensor after the other.

    The source may be quantised already; requantising loses a little more accuracy. For rows that
    are not a multiple of the block size llama.cpp chooses a similar type.

    Args:
        source: a GGUF of any types that llama.cpp can dequantise.
        destination: the file to write.
        width: the target; q4_k is the medium mix, with more bits for some tensors.
        progress: called with the size of the destination.

    Raises:
        ModelError: the source is damaged, or llama.cpp refused it; the destination is removed.
    """
    from streamasr.decoder.native import load_library

    read_gguf(source)  # has better error messages than llama.cpp
    library: Any = load_library()
    parameters = library.llama_model_quantize_default_params()
    parameters.ftype = getattr(library, _FILE_TYPES[width])
    parameters.nthread = os.cpu_count() or 1
    parameters.allow_requantize = True
    parameters.max_buf_size = _BUFFER_BYTES
    arguments = (os.fsencode(source), os.fsencode(destination), parameters)
    codes: list[int] = []
    # In a daemon thread, because a call into llama.cpp cannot be interrupted: after an interrupt
    # the process exits without waiting for the call.
    work = threading.Thread(
        target=lambda: codes.append(library.llama_model_quantize(*arguments)), daemon=True
    )
    work.start()
    while work.is_alive():
        work.join(_REPORT_INTERVAL)
        size = destination.stat().st_size if destination.exists() else 0
        progress(f"quantising the decoder to {width}", size, 0)
    if codes != [0]:
        destination.unlink(missing_ok=True)
        raise ModelError(
            f"{source}: llama.cpp cannot quantise this file to {width}; import it with --decoder "
            "keep, or see the reason with -vv.",
            code="quantisation_failed",
        )
