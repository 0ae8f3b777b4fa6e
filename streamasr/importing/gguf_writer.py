"""The LLM and its tokenizer as a GGUF file for llama.cpp.

Written as architecture `qwen3`, plain one-dimensional positions: the multimodal ones of
the original configuration carry the same index in every plane, so the arithmetic is the
same. Matrices are f16 or f32, norms f32. Embeddings that are tied are stored once; an
aligner never needs an output matrix, since its own head is applied outside llama.cpp.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import gguf
import numpy as np
import numpy.typing as npt

from streamasr.errors import ModelError
from streamasr.importing.checkpoint import HEAD, Checkpoint
from streamasr.importing.tensors import Tensor
from streamasr.importing.tokenizer import END_OF_TEXT, END_OF_TURN, Vocabulary
from streamasr.models.bundle import RECOGNISER

FloatWidth = Literal["f32", "f16"]

_ARCHITECTURE: Final = gguf.MODEL_ARCH.QWEN3
_FILE_TYPES: Final = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
}


def write_decoder(checkpoint: Checkpoint, path: Path, width: FloatWidth, name: str) -> None:
    """Write the LLM of a checkpoint, one tensor in memory at a time.

    Args:
        checkpoint: a recogniser's or an aligner's.
        path: the file to write.
        width: how matrices are stored.
        name: what the model is called.

    Raises:
        ModelError: the tokenizer files are broken, or a weight does not fit into f16.
    """
    vocabulary = checkpoint.read_vocabulary()
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[_ARCHITECTURE])
    _add_facts(writer, checkpoint, width, name)
    _add_vocabulary(writer, vocabulary)
    tensors = dict(_decoder_tensors(checkpoint))
    for gguf_name, tensor in tensors.items():
        dtype = _dtype(tensor, width)
        n_bytes = int(np.prod(tensor.shape)) * dtype.itemsize
        writer.add_tensor_info(gguf_name, tensor.shape, dtype, n_bytes)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors.values():
            writer.write_tensor_data(_values(tensor, width))
    finally:
        writer.close()


def _add_facts(writer: gguf.GGUFWriter, checkpoint: Checkpoint, width: str, name: str) -> None:
    text = checkpoint.text
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[width])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(text.n_layers)
    writer.add_context_length(text.max_positions)
    writer.add_embedding_length(text.hidden)
    writer.add_feed_forward_length(text.ffn)
    writer.add_head_count(text.n_heads)
    writer.add_head_count_kv(text.n_kv_heads)
    writer.add_key_length(text.head_dim)
    writer.add_value_length(text.head_dim)
    writer.add_layer_norm_rms_eps(text.rms_eps)
    writer.add_rope_freq_base(text.rope_theta)
    writer.add_vocab_size(text.vocab)


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")  # byte-level BPE
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_add_bos_token(False)
    if (end_of_turn := vocabulary.find(END_OF_TURN)) is not None:
        writer.add_eos_token_id(end_of_turn)
    if (end_of_text := vocabulary.find(END_OF_TEXT)) is not None:
        writer.add_pad_token_id(end_of_text)


def _decoder_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Pick the LLM's tensors, under the names that llama.cpp knows them by."""
    names = gguf.get_tensor_name_map(_ARCHITECTURE, checkpoint.text.n_layers)
    for name, tensor in checkpoint.tensors.items():
        if name.startswith("language_model."):
            common_name = name.replace("language_model.", "model.", 1)
        elif name == HEAD and checkpoint.family == RECOGNISER:
            common_name = "lm_head.weight"
        else:
            continue
        gguf_name = names.get_name(common_name, try_suffixes=(".weight",))
        if gguf_name is None:
            raise ModelError(f"{checkpoint.path}: llama.cpp has no place for {tensor.name}")
        yield gguf_name, tensor


def _dtype(tensor: Tensor, width: FloatWidth) -> np.dtype[Any]:
    """Norms are one-dimensional and stay f32, which is what llama.cpp multiplies them in."""
    return np.dtype(np.float32 if len(tensor.shape) == 1 or width == "f32" else np.float16)


def _values(tensor: Tensor, width: FloatWidth) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        values = tensor.float32().astype(_dtype(tensor, width), copy=False)
    if not np.isfinite(values).all():
        raise ModelError(f"{tensor.path}: {tensor.name} holds values that are not finite in f16")
    return values
