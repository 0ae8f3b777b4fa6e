"""Fewer bits: int8 linear layers for encoders, q8_0 and q4_k decoders."""

import os
import threading
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.importing.gguf_file import read_gguf
from streamasr.importing.tensors import Progress, silent

QuantizedWidth = Literal["f32", "f16", "q8_0", "q4_k"]

_LARGEST: Final = 64  # of a quantised weight: 7 of the 8 bits

_BUFFER_BYTES: Final = 1 << 26
"""Rows in llama.cpp's memory at a time. Left alone it takes whole tensors: of the 0.6B model 940 MB
instead of 270, with the same result."""

_LOOK_S: Final = 0.3
"""Seconds between two looks at how far it is."""

_FILE_TYPES: Final[dict[QuantizedWidth, str]] = {
    "f32": "LLAMA_FTYPE_ALL_F32",
    "f16": "LLAMA_FTYPE_MOSTLY_F16",
    "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
    "q4_k": "LLAMA_FTYPE_MOSTLY_Q4_K_M",
}


def quantize_rows(weight: Float32Array) -> tuple[npt.NDArray[np.int8], Float32Array]:
    """Quantise a linear layer's matrix, with one scale for each output.

    Weights are signed, symmetric and use 7 of the 8 bits: the fast kernels multiply
    unsigned activations with signed weights and add pairs in 16 bits, which overflows
    with 8-bit weights on processors without VNNI, so that results would depend on the
    machine. On a processor with VNNI this takes about a third of float32's time, and
    unsigned weights almost all of it. The values are those that onnxruntime's own
    quantiser gives, which holds the whole model several times while it works.

    Args:
        weight: (out, in).

    Returns:
        (out, in) and (out,); their product is the weight.
    """
    scales = np.abs(weight).max(axis=1) / np.float32(_LARGEST)
    scales[scales < np.finfo(np.float32).tiny] = 1  # a row of zeros
    values = np.rint(weight / scales[:, None])
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.int8), scales


def quantize_decoder(
    source: Path, destination: Path, width: QuantizedWidth, progress: Progress = silent
) -> None:
    """Quantise a GGUF through llama.cpp's own quantiser, which takes one tensor after the other.

    A source may be quantised already: what it has lost stays lost, and a little more goes. Rows
    that a block size does not divide fall back to a neighbouring type, as llama.cpp decides.

    Args:
        source: a GGUF of any types that llama.cpp can turn back into numbers.
        destination: the file to write.
        width: the target; q4_k is the medium mix, with more bits for some tensors.
        progress: told how much of the destination there is.

    Raises:
        ModelError: the source is damaged, or llama.cpp refused it; there is no destination then.
    """
    from streamasr.decoder.library import load_library

    read_gguf(source)  # says better than llama.cpp what is wrong with a file
    library: Any = load_library()
    parameters = library.llama_model_quantize_default_params()
    parameters.ftype = getattr(library, _FILE_TYPES[width])
    parameters.nthread = os.cpu_count() or 1
    parameters.allow_requantize = True
    parameters.max_buf_size = _BUFFER_BYTES
    arguments = (os.fsencode(source), os.fsencode(destination), parameters)
    codes: list[int] = []
    # In a thread, as no signal reaches a call into llama.cpp; whoever is interrupted leaves it be.
    work = threading.Thread(
        target=lambda: codes.append(library.llama_model_quantize(*arguments)), daemon=True
    )
    work.start()
    while work.is_alive():
        work.join(_LOOK_S)
        size = destination.stat().st_size if destination.exists() else 0
        progress(f"quantising the decoder to {width}", size, 0)
    if codes != [0]:
        destination.unlink(missing_ok=True)
        raise ModelError(
            f"{source}: llama.cpp cannot quantise this file to {width} (-vv shows why); import it "
            "with --decoder keep."
        )
