"""Checks of a language model's GGUF that llama.cpp shall run unchanged.

llama.cpp refuses most contradictions. For some, and for duplicate tokens, it aborts the whole
process; these are therefore detected before llama.cpp opens the file.
"""

from pathlib import Path
from typing import Final

import numpy as np

from streamasr.core.errors import ModelError
from streamasr.importing.gguf_file import GGUFFile, GGUFTensor, read_gguf
from streamasr.importing.gguf_kind import is_speech_decoder, is_split, unusable
from streamasr.importing.qwen3.checkpoint import (
    TextDimensions,
    check_text_dimensions,
    in_order,
    text_shapes,
)
from streamasr.importing.qwen3.gguf_names import LLM
from streamasr.importing.qwen3.tokenizer import NEEDED, Vocabulary, vocabulary_of
from streamasr.models.qwen3.names import RECOGNISER

ARCHITECTURES: Final = ("qwen3vl", "qwen3")

_MUST_BE_NONE: Final = (
    "n_deepstack_layers",
    "expert_count",
    "expert_used_count",
    "nextn_predict_layers",
)
"""Metadata of models with parts that are not supported."""

_ROW_STEP: Final = 4096


def check_decoder(path: Path, family: str) -> None:
    """Check that llama.cpp can run a decoder, before llama.cpp opens the file.

    Args:
        path: a GGUF, with or without a head: a tied one may be absent, and an aligner's may be
            stored in another file.
        family: RECOGNISER or ALIGNER.

    Raises:
        ModelError: the file holds another model, or a part is missing, contradictory or not
            supported.
    """
    read_text_model(read_gguf(path), family)


def read_text_model(file: GGUFFile, family: str = RECOGNISER) -> tuple[TextDimensions, Vocabulary]:
    """Read the dimensions and the vocabulary of a language model that llama.cpp can run.

    Args:
        file: the model; an aligner's head is padded to the size of the vocabulary.
        family: RECOGNISER or ALIGNER.

    Raises:
        ModelError: the file holds another model, or a part is missing, contradictory or not
            supported.
    """
    if file.architecture not in ARCHITECTURES or not is_speech_decoder(file) or is_split(file):
        raise unusable(file)
    prefix = file.architecture
    embeddings = file.tensors.get("token_embd.weight")
    if embeddings is None or len(embeddings.shape) != 2:
        raise ModelError(
            f"{file.path}: tensor token_embd.weight is missing or not a matrix",
            code="tensor_missing",
        )
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
    check_text_dimensions(dimensions, file.path)
    in_order(LLM.normal_form(file.tensors, file.path), text_shapes(dimensions), file.path)
    _check_head(file, dimensions, family)
    return dimensions, vocabulary_of(file, dimensions.vocab, NEEDED[family])


def _check_sections(file: GGUFFile, name: str) -> None:
    """Refuse rotary sections that assign the rotated pairs to no axis."""
    sections = file.metadata.get(name)
    if sections is None:
        return
    if not isinstance(sections, list) or not any(
        isinstance(width, int) and width > 0 for width in sections
    ):
        raise ModelError(
            f"{file.path}: {name} = {sections!r:.60} is not supported; it must have a positive "
            "width",
            code="setting_unsupported",
        )


def _check_head(file: GGUFFile, dimensions: TextDimensions, family: str) -> None:
    """Refuse a head of another size, and an aligner's if a recogniser is needed."""
    head = file.tensors.get("output.weight")
    if head is None:
        return
    if head.shape != (dimensions.vocab, dimensions.hidden):
        raise ModelError(
            f"{file.path}: tensor output.weight has the shape {head.shape}, but the embeddings "
            f"have {(dimensions.vocab, dimensions.hidden)}",
            code="tensor_shape",
        )
    if family == RECOGNISER and count_classes(head) is not None:
        raise ModelError(
            f"{file.path} is the decoder of a Qwen3-ForcedAligner; give the path of the folder "
            "with the decoder and the ONNX graphs of the same release",
            code="aligner_decoder",
        )


def count_classes(head: GGUFTensor) -> int | None:
    """Count the rows before the padding of an aligner's head; None if there is no padding.

    Rows are compared as stored: equal rows stay equal in every type, because a block of quantised
    values never spans two rows.
    """
    n_rows = head.shape[0]
    last = head.rows(n_rows - 1, n_rows)
    # The padding is -100, or near it in block types; other converters pad with zeros.
    if n_rows < 2 or last.min() != last.max() or last.max() >= 0:
        return None
    stored = head.stored()
    for end in range(n_rows, 0, -_ROW_STEP):
        begin = max(0, end - _ROW_STEP)
        differs = np.flatnonzero((stored[begin:end] != stored[-1]).any(axis=1))
        if differs.size:
            n_classes = begin + int(differs[-1]) + 1
            return n_classes if n_classes < n_rows - 1 else None
    return None
