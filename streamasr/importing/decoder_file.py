"""Facts about a language model's GGUF: its type, its number of weights, the size of a copy."""

import math
from collections import Counter
from pathlib import Path
from typing import Final

from streamasr.importing.gguf_file import read_gguf
from streamasr.importing.options import DecoderWidth

KEPT: Final = (None, "keep")
"""Values of the option `decoder` that leave a GGUF unchanged."""

DECODER_BYTES: Final[dict[DecoderWidth, float]] = {
    "f32": 4,
    "f16": 2,
    "q8_0": 1.1,
    "q4_k": 0.7,
    "keep": 2,
}
"""Upper bounds for a weight."""


def decoder_type(path: Path) -> str:
    """Return the type of most of a decoder's weights, for example `q4_k`."""
    sizes: Counter[str] = Counter()
    for tensor in read_gguf(path).tensors.values():
        sizes[tensor.stored_type] += math.prod(tensor.shape)
    return sizes.most_common(1)[0][0].lower()


def count_weights(decoder: Path) -> int:
    """Count the parameters of an LLM as usual: without the encoder, tied embeddings once."""
    tensors = read_gguf(decoder).tensors.items()
    return sum(math.prod(tensor.shape) for name, tensor in tensors if name != "output.weight")
