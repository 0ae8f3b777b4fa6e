"""Writer of transcribe.cpp's GGUF (architecture `qwen3_asr`), the form that Handy downloads.

Properties from the published converter and quantiser: names of our own style for encoder and LLM,
no head, the mel filters as (128, 201) and a periodic Hann window; norms and biases are F32, and so
are the convolutions, except in the bf16 file, which has them in F16. In the mixes, embeddings are
Q6_K and output projections of the encoder's attention Q8_0; rows that are not a multiple of a block
are Q8_0. Added tokens that are not special have the type of normal ones, and so have unused rows.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType, TokenType

from streamasr.features.log_mel import mel_filters
from tests.sources.gguf_file import Entry, fits, write_gguf
from tests.sources.weights import Float32Array, Vocabulary, Weights, read_vocabulary

Preset = Literal["bf16", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]

ARCHITECTURE: Final = "qwen3_asr"

_LINEAR: Final = {
    "bf16": Type.BF16,
    "f16": Type.F16,
    "q8_0": Type.Q8_0,
    "q6_k": Type.Q6_K,
    "q5_k_m": Type.Q5_K,
    "q4_k_m": Type.Q4_K,
}
_FILE_TYPES: Final = {
    "bf16": LlamaFileType.MOSTLY_BF16,
    "f16": LlamaFileType.MOSTLY_F16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
    "q6_k": LlamaFileType.MOSTLY_Q6_K,
    "q5_k_m": LlamaFileType.MOSTLY_Q5_K_M,
    "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M,
}
_MIXES: Final = ("q5_k_m", "q4_k_m")

_ENCODER_LAYER: Final = (
    ("norm_attn", "self_attn_layer_norm"),
    ("attn.q", "self_attn.q_proj"),
    ("attn.k", "self_attn.k_proj"),
    ("attn.v", "self_attn.v_proj"),
    ("attn.out", "self_attn.out_proj"),
    ("norm_ffn", "final_layer_norm"),
    ("ffn.fc1", "fc1"),
    ("ffn.fc2", "fc2"),
)
_DECODER_LAYER: Final = (
    ("norm_attn", "input_layernorm"),
    ("norm_ffn", "post_attention_layernorm"),
    ("attn.q", "self_attn.q_proj"),
    ("attn.k", "self_attn.k_proj"),
    ("attn.v", "self_attn.v_proj"),
    ("attn.o", "self_attn.o_proj"),
    ("attn.q_norm", "self_attn.q_norm"),
    ("attn.k_norm", "self_attn.k_norm"),
    ("ffn.gate", "mlp.gate_proj"),
    ("ffn.up", "mlp.up_proj"),
    ("ffn.down", "mlp.down_proj"),
)
_LANGUAGES: Final = ("zh", "en")


def write_transcribe_cpp(checkpoint: Path, path: Path, preset: Preset = "f16") -> Path:
    """Write a recogniser and return the path.

    Args:
        checkpoint: directory of the weights; a head of its own is not written.
        path: the file to write.
        preset: types of the tensors.
    """
    weights = Weights(checkpoint)
    vocabulary = read_vocabulary(checkpoint)
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    _add_identity(writer, weights, preset)
    _add_vocabulary(writer, vocabulary, weights.shape.vocab)
    _add_encoder(writer, weights)
    _add_decoder(writer, weights)
    for key, text in {
        "audio_token_id": "<|audio_pad|>",
        "audio_start_token_id": "<|audio_start|>",
        "audio_end_token_id": "<|audio_end|>",
    }.items():
        writer.add_uint32(f"stt.qwen3_asr.{key}", vocabulary.find(text))
    _add_front_end(writer)
    names = dict(_names(weights))
    tensors = [_entry(weights, name, ours, preset) for name, ours in names.items()]
    write_gguf(writer, path, [*_tables(), *tensors])
    return path


def _add_identity(writer: gguf.GGUFWriter, weights: Weights, preset: Preset) -> None:
    writer.add_name(f"Qwen3-ASR ({weights.directory.name})")
    writer.add_basename("qwen3-asr")
    writer.add_license("apache-2.0")
    writer.add_languages(list(_LANGUAGES))
    writer.add_file_type(_FILE_TYPES[preset])
    writer.add_string("stt.variant", "qwen3-asr-0.6b")
    writer.add_bool("stt.capability.lang_detect", True)


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary, n_rows: int) -> None:
    texts = vocabulary.texts
    special = vocabulary.special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([texts.get(row, f"<|unused_{row}|>") for row in range(n_rows)])
    writer.add_token_types(
        [TokenType.CONTROL if row in special else TokenType.NORMAL for row in range(n_rows)]
    )
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_eos_token_id(vocabulary.find("<|im_end|>"))
    writer.add_pad_token_id(vocabulary.find("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages }}")


def _add_encoder(writer: gguf.GGUFWriter, weights: Weights) -> None:
    shape = weights.shape
    for key, value in {
        "n_layers": shape.encoder_layers,
        "d_model": shape.d_model,
        "n_heads": shape.encoder_heads,
        "ffn_dim": shape.encoder_ffn,
        "num_mel_bins": shape.n_mels,
        "downsample_hidden": shape.channels,
        "output_dim": shape.hidden,
        "max_source_positions": 1500,
        "n_window": shape.n_window,
        "n_window_infer": shape.n_window_infer,
        "conv_chunksize": 500,
    }.items():
        writer.add_uint32(f"stt.qwen3_asr.encoder.{key}", value)
    writer.add_string("stt.qwen3_asr.encoder.activation", "gelu")


def _add_decoder(writer: gguf.GGUFWriter, weights: Weights) -> None:
    shape, prefix = weights.shape, "stt.qwen3_asr.decoder"
    side = round(shape.head_dim // 2 * 20 / 64)
    for key, value in {
        "n_layers": shape.layers,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "n_heads": shape.heads,
        "n_kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": weights.max_positions,
        "vocab_size": shape.vocab,
        "rope_mrope_section_t": shape.head_dim // 2 - 2 * side,
        "rope_mrope_section_h": side,
        "rope_mrope_section_w": side,
    }.items():
        writer.add_uint32(f"{prefix}.{key}", value)
    writer.add_string(f"{prefix}.hidden_act", "silu")
    writer.add_float32(f"{prefix}.rms_norm_eps", weights.rms_eps)
    writer.add_float32(f"{prefix}.rope_theta", shape.rope_theta)
    writer.add_bool(f"{prefix}.rope_mrope_interleaved", True)
    writer.add_bool(f"{prefix}.tie_word_embeddings", True)


def _add_front_end(writer: gguf.GGUFWriter) -> None:
    prefix = "stt.frontend"
    for key, text in {
        "type": "mel",
        "window": "hann_periodic",
        "normalize": "per_utterance",
        "pad_mode": "reflect",
        "mel_norm": "slaney",
    }.items():
        writer.add_string(f"{prefix}.{key}", text)
    for key, number in {
        "num_mels": 128,
        "sample_rate": 16_000,
        "n_fft": 400,
        "win_length": 400,
        "hop_length": 160,
        "chunk_length": 30,
        "n_samples": 480_000,
        "nb_max_frames": 3000,
    }.items():
        writer.add_uint32(f"{prefix}.{key}", number)
    for key, value in {"dither": 0, "pre_emphasis": 0, "f_min": 0, "f_max": 8000}.items():
        writer.add_float32(f"{prefix}.{key}", value)
    writer.add_bool(f"{prefix}.center", True)


def _names(weights: Weights) -> Iterator[tuple[str, str]]:
    """Yield the file's name and ours of each tensor."""
    for name, ours in _stems(weights):
        for suffix in ("weight", "bias"):
            if f"{ours}.{suffix}" in weights.names:
                yield f"{name}.{suffix}", f"{ours}.{suffix}"


def _stems(weights: Weights) -> Iterator[tuple[str, str]]:
    tower, model = "audio_tower", "language_model"
    for number in range(3):
        yield f"enc.conv.{number}", f"{tower}.conv2d{number + 1}"
    yield "enc.conv_out", f"{tower}.conv_out"
    yield "enc.ln_post", f"{tower}.ln_post"
    yield "enc.proj1", "multi_modal_projector.linear_1"
    yield "enc.proj2", "multi_modal_projector.linear_2"
    for layer in range(weights.shape.encoder_layers):
        for name, ours in _ENCODER_LAYER:
            yield f"enc.blocks.{layer}.{name}", f"{tower}.layers.{layer}.{ours}"
    yield "dec.token_embd", f"{model}.embed_tokens"
    yield "dec.output_norm", f"{model}.norm"
    for layer in range(weights.shape.layers):
        for name, ours in _DECODER_LAYER:
            yield f"dec.blocks.{layer}.{name}", f"{model}.layers.{layer}.{ours}"


def _entry(weights: Weights, name: str, ours: str, preset: Preset) -> Entry:
    size = weights.size(ours)
    return Entry(name, size, _type(name, size, preset), lambda: weights.read(ours))


def _type(name: str, size: tuple[int, ...], preset: Preset) -> Type:
    if len(size) == 1:
        return Type.F32
    if ".conv." in name:
        return Type.F16 if preset == "bf16" else Type.F32
    kind = _LINEAR[preset]
    if preset in _MIXES and name == "dec.token_embd.weight":
        kind = Type.Q6_K
    if preset in _MIXES and name.endswith("attn.out.weight"):
        kind = Type.Q8_0
    for narrow in (kind, Type.Q8_0):
        if fits(size, narrow):
            return narrow
    return Type.F16


def _tables() -> Iterator[Entry]:
    filters: Float32Array = np.ascontiguousarray(mel_filters(128).T, dtype=np.float32)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)).astype(np.float32)
    yield Entry("frontend.mel_filterbank", filters.shape, Type.F32, lambda: filters)
    yield Entry("frontend.window", window.shape, Type.F32, lambda: window)
