"""Fewer bits: int8 encoders, q8_0 and q4_k decoders."""

import os
from pathlib import Path
from typing import Final, Literal

import onnx

from streamasr.decoder.llama import load_library
from streamasr.errors import ModelError

QuantizedWidth = Literal["q8_0", "q4_k"]


def quantize_backend(model: onnx.ModelProto, path: Path) -> None:
    """Write the transformer graph with 8-bit linear layers, one scale per output channel.

    Activations are quantised while the graph runs; norms and attention itself stay
    float32. Weights are signed and use 7 of the 8 bits: the fast kernels multiply
    unsigned activations with signed weights and add pairs in 16 bits, which overflows
    with 8-bit weights on processors without VNNI, so that results would depend on the
    machine. On a processor with VNNI this takes about a third of float32's time, and
    unsigned weights almost all of it.

    There is no such function for the front end: 8-bit convolutions are slower than
    float32 ones in onnxruntime.

    Args:
        model: float32 initialisers, as `keep_half=False` builds them.
        path: the file to write.
    """
    from onnxruntime.quantization import QuantType, quant_utils, quantize_dynamic

    # The quantiser warns about graphs that its own preparation has not seen; ours need none.
    quant_utils.add_pre_process_metadata(model)
    quantize_dynamic(
        model,
        path,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        reduce_range=True,
    )


_FILE_TYPES: Final[dict[QuantizedWidth, str]] = {
    "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
    "q4_k": "LLAMA_FTYPE_MOSTLY_Q4_K_M",
}


def quantize_decoder(source: Path, destination: Path, width: QuantizedWidth) -> None:
    """Quantise a GGUF through llama.cpp's own quantiser.

    Rows that a block size does not divide fall back to a neighbouring type, as
    llama.cpp decides.

    Args:
        source: an f16 or f32 GGUF.
        destination: the file to write.
        width: the target; q4_k is the medium mix, with more bits for some tensors.

    Raises:
        ModelError: llama.cpp refused.
    """
    library = load_library()
    parameters = library.llama_model_quantize_default_params()
    parameters.ftype = getattr(library, _FILE_TYPES[width])
    parameters.nthread = os.cpu_count() or 1
    code = library.llama_model_quantize(os.fsencode(source), os.fsencode(destination), parameters)
    if code:
        raise ModelError(f"{source}: llama.cpp could not quantise this file (code {code})")
