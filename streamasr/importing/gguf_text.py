"""What a language model's GGUF says of itself, where llama.cpp is to run it as it is.

Most contradictions llama.cpp refuses. Over some, and over tokens that are there twice, it ends the
whole process; so these are looked for before it gets the file.
"""

from pathlib import Path
from typing import Final

import numpy as np

from streamasr.core.errors import ModelError
from streamasr.importing.checkpoint import (
    TextDimensions,
    check_text_dimensions,
    in_order,
    text_shapes,
)
from streamasr.importing.gguf_file import (
    GGUFFile,
    GGUFTensor,
    describe,
    is_part,
    is_speech_decoder,
    read_gguf,
)
from streamasr.importing.gguf_names import LLM
from streamasr.importing.tokenizer import NEEDED, Vocabulary, vocabulary_of
from streamasr.models.qwen3.names import RECOGNISER

ARCHITECTURES: Final = ("qwen3vl", "qwen3")

_MUST_BE_NONE: Final = (
    "n_deepstack_layers",
    "expert_count",
    "expert_used_count",
    "nextn_predict_layers",
)
"""Of models that are more than this one."""

_ROWS_AT_ONCE: Final = 4096


def check_decoder(path: Path, family: str) -> None:
    """Find out whether llama.cpp can run a decoder, before it gets the file.

    Args:
        path: a GGUF; with or without a head, as a tied one may be left out, and an aligner's be
            stored elsewhere.
        family: RECOGNISER or ALIGNER.

    Raises:
        ModelError: it is another model, or something is missing, contradictory or not supported.
    """
    read_text_model(read_gguf(path), family)


def read_text_model(file: GGUFFile, family: str = RECOGNISER) -> tuple[TextDimensions, Vocabulary]:
    """Find the sizes and the tokens of a language model, and that llama.cpp can run it.

    Args:
        file: the model; an aligner's head is filled up to its vocabulary.
        family: RECOGNISER or ALIGNER.

    Raises:
        ModelError: it is another model, or something is missing, contradictory or not supported.
    """
    if file.architecture not in ARCHITECTURES or not is_speech_decoder(file) or is_part(file):
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
    check_text_dimensions(dimensions, file.path)
    in_order(LLM.normal_form(file.tensors, file.path), text_shapes(dimensions), file.path)
    _check_head(file, dimensions, family)
    return dimensions, vocabulary_of(file, dimensions.vocab, NEEDED[family])


def _check_sections(file: GGUFFile, name: str) -> None:
    """Refuse to divide the rotated pairs among no axis at all."""
    sections = file.metadata.get(name)
    if sections is None:
        return
    if not isinstance(sections, list) or not any(
        isinstance(width, int) and width > 0 for width in sections
    ):
        raise ModelError(f"{file.path}: {name} = {sections!r:.60} is not supported")


def _check_head(file: GGUFFile, dimensions: TextDimensions, family: str) -> None:
    """Refuse a head of another size, and an aligner's where a recogniser is needed."""
    head = file.tensors.get("output.weight")
    if head is None:
        return
    if head.shape != (dimensions.vocab, dimensions.hidden):
        raise ModelError(f"{file.path}: output.weight is {head.shape}, unlike the embeddings")
    if family == RECOGNISER and count_classes(head) is not None:
        raise ModelError(
            f"{file.path} is the decoder of a Qwen3-ForcedAligner; give the folder of it and the "
            "ONNX graphs that it was published with"
        )


def count_classes(head: GGUFTensor) -> int | None:
    """Count the rows before those that only fill an aligner's head up; None where there are none.

    Rows are compared as they are stored: equal ones stay equal in every type, as no block of
    quantised values reaches over two rows.
    """
    n_rows = head.shape[0]
    last = head.rows(n_rows - 1, n_rows)
    # The padding is -100, or near it in blocks; zeros are what other converters fill up with.
    if n_rows < 2 or last.min() != last.max() or last.max() >= 0:
        return None
    stored = head.stored()
    for end in range(n_rows, 0, -_ROWS_AT_ONCE):
        begin = max(0, end - _ROWS_AT_ONCE)
        differs = np.flatnonzero((stored[begin:end] != stored[-1]).any(axis=1))
        if differs.size:
            n_classes = begin + int(differs[-1]) + 1
            return n_classes if n_classes < n_rows - 1 else None
    return None
