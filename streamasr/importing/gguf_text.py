"""What a language model's GGUF says of itself, where llama.cpp is to run it as it is."""

from pathlib import Path
from typing import Final

import numpy as np

from streamasr.errors import ModelError
from streamasr.importing.checkpoint import TextDimensions
from streamasr.importing.gguf_file import GGUFFile, describe, is_part, is_speech_decoder
from streamasr.importing.gguf_names import LLM

ARCHITECTURES: Final = ("qwen3vl", "qwen3")

_MUST_BE_NONE: Final = (
    "n_deepstack_layers",
    "expert_count",
    "expert_used_count",
    "nextn_predict_layers",
)
"""Of models that are more than this one."""

_MOST_LAYERS: Final = 512
_MOST_POSITIONS: Final = 1 << 31
_SMALLEST: Final = 1e-30  # of numbers that are stored in single precision
_LARGEST: Final = 1e30
_PADDING: Final = -100.0  # what fills the head of an aligner's decoder up to its vocabulary


def read_text_model(file: GGUFFile) -> TextDimensions:
    """Find the sizes of a recogniser's language model.

    Raises:
        ModelError: it is another model, or something is missing, contradictory or not supported.
    """
    is_right = file.architecture in ARCHITECTURES and is_speech_decoder(file)
    if not is_right or is_part(file):
        raise ModelError(describe(file))
    prefix = file.architecture
    embeddings = file.tensors.get("token_embd.weight")
    if embeddings is None or len(embeddings.shape) != 2:
        raise ModelError(f"{file.path}: tensor token_embd.weight is missing")
    head_dim = file.integer(f"{prefix}.attention.key_length")
    file.only(f"{prefix}.attention.value_length", head_dim)
    file.only(f"{prefix}.rope.dimension_count", head_dim)
    for name in _MUST_BE_NONE:
        file.only(f"{prefix}.{name}", 0)
    _check_sections(file, f"{prefix}.rope.dimension_sections")
    dimensions = TextDimensions(
        vocab=embeddings.shape[0],
        hidden=file.integer(f"{prefix}.embedding_length"),
        n_layers=LLM.n_layers(file, f"{prefix}.block_count", "blk"),
        n_heads=file.integer(f"{prefix}.attention.head_count"),
        n_kv_heads=file.integer(f"{prefix}.attention.head_count_kv"),
        head_dim=head_dim,
        ffn=file.integer(f"{prefix}.feed_forward_length"),
        max_positions=file.integer(f"{prefix}.context_length"),
        rms_eps=file.number(f"{prefix}.attention.layer_norm_rms_epsilon"),
        rope_theta=file.number(f"{prefix}.rope.freq_base"),
    )
    check_runnable(dimensions, file.path)
    _check_head(file, dimensions)
    return dimensions


def _check_sections(file: GGUFFile, name: str) -> None:
    """Refuse to divide the rotated pairs among no axis at all."""
    sections = file.metadata.get(name)
    if sections is None:
        return
    if not isinstance(sections, list) or not any(
        isinstance(width, int) and width > 0 for width in sections
    ):
        raise ModelError(f"{file.path}: {name} = {sections!r:.60} is not supported")


def check_runnable(text: TextDimensions, path: Path) -> None:
    """Refuse what llama.cpp would end the whole process over.

    Raises:
        ModelError: no Qwen3 can be like this.
    """
    if text.n_heads % text.n_kv_heads:
        raise ModelError(
            f"{path}: {text.n_heads} heads cannot share {text.n_kv_heads} heads of keys and values"
        )
    if text.head_dim < 2 or text.head_dim % 2:
        raise ModelError(f"{path}: heads of {text.head_dim} values cannot be rotated in pairs")
    if text.n_layers > _MOST_LAYERS:
        raise ModelError(
            f"{path}: llama.cpp runs {_MOST_LAYERS} layers at most, not {text.n_layers}"
        )
    if not 0 < text.max_positions < _MOST_POSITIONS:
        raise ModelError(f"{path}: a context of {text.max_positions} positions is impossible")
    for what, value in (("rms_norm_eps", text.rms_eps), ("rope_theta", text.rope_theta)):
        if not _SMALLEST < value < _LARGEST:
            raise ModelError(f"{path}: {what} cannot be {value}")


def _check_head(file: GGUFFile, dimensions: TextDimensions) -> None:
    """Refuse a head of another size, and one of an aligner, filled up to the vocabulary."""
    head = file.tensors.get("output.weight")
    if head is None:
        return
    if head.shape != (dimensions.vocab, dimensions.hidden):
        raise ModelError(f"{file.path}: output.weight is {head.shape}, unlike the embeddings")
    if np.all(head.rows(dimensions.vocab - 1, dimensions.vocab) == _PADDING):
        raise ModelError(
            f"{file.path} is the decoder of a Qwen3-ForcedAligner; give the folder of it and the "
            "ONNX graphs that it was published with"
        )
