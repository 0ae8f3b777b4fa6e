"""Files of a bundle of a Paraformer, from weights or from a released graph.

DIR/tokens.json    list of the tokens
DIR/cmvn.npy       normalisation of the features, (2, n_features): shift and scale
DIR/encoder.onnx   from weights: see graphs.py; weights in a file beside it
DIR/decoder.onnx
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from streamasr.core.units import Float32Array
from streamasr.importing.bundle_writer import BundleWriter
from streamasr.importing.options import EncoderWidth, ImportOptions
from streamasr.importing.paraformer.checkpoint import Checkpoint
from streamasr.importing.paraformer.graphs import write_decoder, write_encoder
from streamasr.models.paraformer.names import (
    CMVN_FILE,
    DECODER_GRAPH_FILE,
    ENCODER_FILE,
    TOKENS_FILE,
)

LANGUAGES: Final = ("Chinese", "English")

_BYTES: Final[dict[EncoderWidth, int]] = {"fp32": 4, "fp16": 2, "int8": 1}
_OVERHEAD: Final = 1 << 22  # bytes of graphs, tokens and alignment


def write_checkpoint(source: Checkpoint, writer: BundleWriter) -> dict[str, Any]:
    """Convert the weights to graphs; return the facts for `model.json`."""
    writer.refuse_decoder_option(source.path)
    bits = _bits(source)
    # Blocks of 8 bits and fewer lose nothing relevant in half precision.
    width = writer.options.encoder or ("fp32" if bits >= 16 else "fp16")
    write_vocabulary(source.tokens, source.read_cmvn(), writer.directory)
    write_encoder(source, writer.directory / ENCODER_FILE, width, writer.progress)
    write_decoder(source, writer.directory / DECODER_GRAPH_FILE, width, writer.progress)
    sizes, settings = source.dimensions, source.settings
    facts: dict[str, Any] = {
        "languages": LANGUAGES,
        "licence": source.licence,
        "graphs": "parts",
        "n_mels": sizes.n_features // source.window,
        "lfr": {"window": source.window, "shift": source.step},
        "predictor": {"threshold": settings.threshold, "tail": settings.tail},
        "d_model": sizes.d_model,
        "vocab": sizes.vocab,
        "parameters": sum(math.prod(tensor.shape) for tensor in source.tensors.values()),
        "precision": {"encoder": width, "decoder": width},
        "encoder_bits": min(bits, {"fp32": 32, "fp16": 16, "int8": 8}[width]),
    }
    if sizes.upsampling:
        facts["time_upsampling"] = sizes.upsampling
    return facts


def write_vocabulary(tokens: Sequence[str], cmvn: Float32Array, directory: Path) -> None:
    """Write the tokens and the normalisation of the features."""
    text = json.dumps(list(tokens), ensure_ascii=False)
    (directory / TOKENS_FILE).write_text(text, encoding="utf-8")
    np.save(directory / CMVN_FILE, np.asarray(cmvn, np.float32))


def max_checkpoint_bytes(source: Checkpoint, options: ImportOptions) -> float:
    """Return an upper bound for the size of a checkpoint's bundle."""
    n_weights = sum(math.prod(tensor.shape) for tensor in source.tensors.values())
    width = options.encoder or "fp32"
    exact = source.dimensions.vocab * source.dimensions.d_model if width == "int8" else 0
    return n_weights * _BYTES[width] + 4 * exact + _OVERHEAD


def _bits(source: Checkpoint) -> int:
    """Return the smallest number of bits of a weight in the matrices."""
    matrices = [each for each in source.tensors.values() if len(each.shape) == 2]
    return min(8 * each.stored().nbytes // math.prod(each.shape) for each in matrices)
