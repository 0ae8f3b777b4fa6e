"""Writer of the LLM as by llama.cpp's `convert_hf_to_gguf.py` (architecture `qwen3vl`).

The ONNX releases declare themselves a Qwen3-VL for the conversion, ggml-org's have their own
converter; the files differ only in the output matrix, the end tokens and a chat template.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType, TokenType

from streamasr.decoder.native import load_library
from tests.sources.gguf_file import Entry, fits, write_gguf
from tests.sources.weights import (
    EMBEDDINGS,
    END_OF_TEXT,
    HEAD,
    IM_END,
    Float32Array,
    Vocabulary,
    Weights,
    read_vocabulary,
)
from tests.support.checkpoints import ORDINARY_ADDED_TOKENS

Mix = Literal["q4_k", "q5_k", "q8_0"]

PADDING: Final = -100.0
"""Weight in the rows after an aligner's classes, the padding; the logits of these rows vary."""

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_MIXES: Final[dict[Mix, str]] = {
    "q4_k": "LLAMA_FTYPE_MOSTLY_Q4_K_M",
    "q5_k": "LLAMA_FTYPE_MOSTLY_Q5_K_M",
    "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0",
}
_FILE_TYPES: Final = {
    Type.F32: LlamaFileType.ALL_F32,
    Type.F16: LlamaFileType.MOSTLY_F16,
    Type.BF16: LlamaFileType.MOSTLY_BF16,
    Type.Q8_0: LlamaFileType.MOSTLY_Q8_0,
}

_LAYER_NAMES: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True, slots=True)
class DecoderOptions:
    """Differences between publishers."""

    kind: Type = Type.F16
    """Type of the matrices; F16 if their rows are not a multiple of its block."""
    has_output: bool = True
    """Store the head even if it is tied to the embeddings."""
    architecture: Literal["qwen3vl", "qwen3"] = "qwen3vl"
    has_chat_template: bool = False
    has_audio_tokens: bool = True
    begin: str | None = None
    """Token that the metadata states as the beginning of a text."""


def write_decoder(weights: Weights, path: Path, options: DecoderOptions) -> None:
    """Write the LLM."""
    writer = gguf.GGUFWriter(path, options.architecture)
    writer.add_type("model")
    writer.add_name(weights.directory.name)
    writer.add_license("apache-2.0")
    _add_dimensions(writer, weights, options)
    writer.add_file_type(_FILE_TYPES[options.kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    vocabulary = read_vocabulary(weights.directory)
    if not options.has_audio_tokens:
        vocabulary = _without_audio(vocabulary)
    add_vocabulary(writer, vocabulary, weights.shape.vocab, options)
    write_gguf(writer, path, list(_entries(weights, options)))


def quantize(source: Path, destination: Path, mix: Mix) -> None:
    """Convert an f16 file to a mix of types, as `llama-quantize` does."""
    library = load_library()
    parameters = library.llama_model_quantize_default_params()
    parameters.ftype = getattr(library, _MIXES[mix])
    parameters.nthread = os.cpu_count() or 1
    code = library.llama_model_quantize(os.fsencode(source), os.fsencode(destination), parameters)
    assert code == 0, f"llama.cpp did not quantise {source}"


def rope_sections(head_dim: int) -> list[int]:
    """Divide the rotated pairs among time, height and width: of 64, 24, 20 and 20."""
    half = head_dim // 2
    side = round(half * 20 / 64)
    return [half - 2 * side, side, side, 0]


def decoder_names(n_layers: int) -> Iterator[tuple[str, str]]:
    """Yield llama.cpp's name and ours of all tensors except the head."""
    yield "token_embd.weight", EMBEDDINGS
    for layer in range(n_layers):
        for name, ours in _LAYER_NAMES.items():
            yield f"blk.{layer}.{name}.weight", f"language_model.layers.{layer}.{ours}.weight"
    yield "output_norm.weight", "language_model.norm.weight"


def _add_dimensions(writer: gguf.GGUFWriter, weights: Weights, options: DecoderOptions) -> None:
    shape = weights.shape
    writer.add_block_count(shape.layers)
    writer.add_context_length(weights.max_positions)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(weights.rms_eps)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    if options.architecture == "qwen3vl":
        writer.add_rope_dimension_sections(rope_sections(shape.head_dim))
        writer.add_num_deepstack_layers(0)


def add_vocabulary(
    writer: gguf.GGUFWriter, vocabulary: Vocabulary, n_rows: int, options: DecoderOptions
) -> None:
    """Add the tokenizer; rows without a token get a filler."""
    texts = vocabulary.texts
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([texts.get(row, f"[PAD{row}]") for row in range(n_rows)])
    writer.add_token_types([_token_type(vocabulary, row) for row in range(n_rows)])
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_eos_token_id(vocabulary.find(IM_END))
    writer.add_pad_token_id(vocabulary.find(END_OF_TEXT))
    if options.begin is not None:
        writer.add_bos_token_id(vocabulary.find(options.begin))
    writer.add_add_bos_token(False)
    if options.has_chat_template:
        writer.add_chat_template(CHAT_TEMPLATE)


def _without_audio(vocabulary: Vocabulary) -> Vocabulary:
    others = {
        number: text
        for number, text in vocabulary.added.items()
        if "audio" not in text and text not in ORDINARY_ADDED_TOKENS
    }
    return replace(vocabulary, added=others)


def _token_type(vocabulary: Vocabulary, row: int) -> TokenType:
    """Return the type of a token; the converter also treats tokens that look special as special."""
    if row in vocabulary.ordinary:
        return TokenType.NORMAL
    if row not in vocabulary.added:
        return TokenType.UNUSED
    text = vocabulary.added[row]
    looks_special = text.startswith("<|") and text.endswith("|>")
    is_special = row in vocabulary.special or looks_special
    return TokenType.CONTROL if is_special else TokenType.USER_DEFINED


def _entries(weights: Weights, options: DecoderOptions) -> Iterator[Entry]:
    for name, ours in decoder_names(weights.shape.layers):
        size = weights.size(ours)
        yield Entry(name, size, _type(size, options.kind), partial(weights.read, ours))
    if options.has_output:
        size = (weights.shape.vocab, weights.shape.hidden)
        kind = _type(size, options.kind)
        yield Entry("output.weight", size, kind, lambda: padded_head(weights))


def _type(size: tuple[int, ...], kind: Type) -> Type:
    if len(size) == 1:
        return Type.F32
    return kind if fits(size, kind) else Type.F16


def padded_head(weights: Weights) -> Float32Array:
    """Return the head with one row per token: an aligner's classes and the padding."""
    head = weights.read(HEAD)
    missing = weights.shape.vocab - len(head)
    rows: Any = np.pad(head, ((0, missing), (0, 0)), constant_values=PADDING)
    return np.asarray(rows, np.float32)
