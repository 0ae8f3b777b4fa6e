"""Writer of the LLM and its tokenizer as a GGUF file for llama.cpp.

The architecture is `qwen3` with plain one-dimensional positions: the multimodal positions of the
original configuration have the same index in every plane, so the arithmetic is the same. Matrices
are f16, f32 or copied byte for byte; norms are f32. Tied embeddings are stored once; an aligner
never needs an output matrix, because its head is applied outside of llama.cpp.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

import gguf
import numpy as np
import numpy.typing as npt

from streamasr.core.errors import ModelError
from streamasr.importing.gguf_file import to_float32
from streamasr.importing.qwen3.checkpoint import HEAD, Checkpoint
from streamasr.importing.qwen3.tokenizer import END_OF_TEXT, END_OF_TURN, Vocabulary
from streamasr.importing.tensors import Progress, Tensor, ignore_progress
from streamasr.models.qwen3.names import RECOGNISER

logging.getLogger("gguf").setLevel(logging.WARNING)  # it logs each file that it writes
WrittenWidth = Literal["f32", "f16", "keep"]

_ARCHITECTURE: Final = gguf.MODEL_ARCH.QWEN3
_FILE_TYPES: Final = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
}
"""File types; a copied file states none, and llama.cpp then inspects the tensors."""

_CONVERTED_BYTES: Final = 1 << 24  # approximately, at a time


def write_decoder(
    checkpoint: Checkpoint,
    path: Path,
    width: WrittenWidth,
    name: str,
    progress: Progress = ignore_progress,
) -> None:
    """Write the LLM of a checkpoint, with only a part of one tensor in memory at a time.

    Args:
        checkpoint: a recogniser or an aligner, without a decoder file of its own.
        path: the file to write.
        width: type of the matrices; `keep` copies them unchanged.
        name: name of the model.
        progress: called after every tensor.

    Raises:
        ModelError: the tokenizer is invalid, llama.cpp cannot run the model, or a weight exceeds
            the range of the type.
    """
    vocabulary = checkpoint.read_vocabulary()
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[_ARCHITECTURE])
    _add_metadata(writer, checkpoint, name)
    if width in _FILE_TYPES:
        writer.add_file_type(_FILE_TYPES[width])
    _add_vocabulary(writer, vocabulary)
    tensors = dict(_decoder_tensors(checkpoint))
    sizes = {each: _add_tensor(writer, each, tensor, width) for each, tensor in tensors.items()}
    done, total = 0, sum(sizes.values())
    step = "copying the decoder" if width == "keep" else f"writing the decoder, {width}"
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for gguf_name, tensor in tensors.items():
            # The writer only uses the array's `nbytes` and `tofile`.
            writer.write_tensor_data(cast("Any", _Values(tensor, width, sizes[gguf_name])))
            done += sizes[gguf_name]
            progress(step, done, total)
    finally:
        writer.close()


def _add_metadata(writer: gguf.GGUFWriter, checkpoint: Checkpoint, name: str) -> None:
    text = checkpoint.text
    writer.add_name(name)
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
    """Yield the LLM's tensors with llama.cpp's names."""
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
            raise ModelError(
                f"{checkpoint.path}: llama.cpp has no tensor that corresponds to {tensor.name}",
                code="tensor_unexpected",
            )
        yield gguf_name, tensor


def _type(tensor: Tensor, width: WrittenWidth) -> gguf.GGMLQuantizationType:
    """Return the type of a tensor in the file; norms, the one-dimensional tensors, stay f32.

    llama.cpp multiplies norms in f32.
    """
    if len(tensor.shape) == 1 or width == "f32":
        return gguf.GGMLQuantizationType.F32
    return gguf.GGMLQuantizationType["F16" if width == "f16" else tensor.stored_type]


def _add_tensor(writer: gguf.GGUFWriter, name: str, tensor: Tensor, width: WrittenWidth) -> int:
    """Add a tensor to the header and return its size in bytes."""
    kind = _type(tensor, width)
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    n_bytes = math.prod(tensor.shape) // block * block_bytes
    # The given type decides; the writer uses numpy's type only for arrays of bytes.
    writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), n_bytes, kind)
    return n_bytes


@dataclass(frozen=True, slots=True)
class _Values:
    """Values of a tensor, converted and written some rows at a time."""

    tensor: Tensor
    width: WrittenWidth
    nbytes: int

    def tofile(self, file: BinaryIO) -> None:
        """Write all values."""
        step = max(1, _CONVERTED_BYTES * len(self.tensor.stored()) // self.nbytes)
        for begin in range(0, len(self.tensor.stored()), step):
            # Each slice is mapped separately: pages that were read count as memory until unmapped.
            self._convert(self.tensor.stored()[begin : begin + step]).tofile(file)

    def _convert(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        kind = _type(self.tensor, self.width)
        if self.width == "keep" and kind.name == self.tensor.stored_type:
            return stored
        dtype = np.float32 if kind == gguf.GGMLQuantizationType.F32 else np.float16
        with np.errstate(over="ignore"):
            values = to_float32(self.tensor, stored).astype(dtype, copy=False)
        if not np.isfinite(values).all():
            raise ModelError(
                f"{self.tensor.path}: tensor {self.tensor.name} has values that are not finite in "
                f"{kind.name.lower()}",
                code="weight_not_finite",
            )
        return values
