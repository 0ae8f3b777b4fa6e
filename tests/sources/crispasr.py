"""Writer of CrispASR's single GGUF of encoder and decoder (architecture `qwen3asr`).

Files of two generations of the converter exist. The old one read only vocab.json, so special tokens
are fillers, and its quantiser reduced encoders to 4 bits like everything else; the new one keeps
encoders at 8 bits. Neither states the pre-tokenizer, the windows or the time classes: an aligner is
identified only by the rows of its head.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from streamasr.features.log_mel import mel_filters
from tests.sources.decoder import decoder_names
from tests.sources.gguf_file import Entry, fits, write_gguf
from tests.sources.weights import HEAD, Float32Array, Vocabulary, Weights, read_vocabulary

Generation = Literal["new", "old"]
Types = Literal["f16", "q8_0", "q5_0", "q4_k", "q3_k"]

ARCHITECTURE: Final = "qwen3asr"

_NARROW: Final = {
    "q8_0": Type.Q8_0,
    "q5_0": Type.Q5_0,
    "q4_k": Type.Q4_K,
    "q3_k": Type.Q3_K,
}
_FALLBACK: Final = {Type.Q4_K: Type.Q4_0, Type.Q3_K: Type.Q4_0}
"""Types for rows that are not a multiple of the block."""

_AUDIO_LAYER_NAMES: Final = {
    "attn_norm": "self_attn_layer_norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.out_proj",
    "ffn_norm": "final_layer_norm",
    "ffn_up": "fc1",
    "ffn_down": "fc2",
}


def write_crispasr(
    checkpoint: Path,
    path: Path,
    types: Types = "f16",
    *,
    generation: Generation = "new",
    mel: bool = True,
) -> Path:
    """Write a recogniser or an aligner and return the path.

    Args:
        checkpoint: directory of the weights.
        path: the file to write.
        types: types of the matrices.
        generation: generation of the converter and the quantiser.
        mel: whether to include the mel filters and the window, which the oldest files lack.
    """
    weights = Weights(checkpoint)
    vocabulary = read_vocabulary(checkpoint)
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    _add_dimensions(writer, weights)
    _add_vocabulary(writer, vocabulary, weights.shape.vocab, generation)
    entries = [*_audio_entries(weights, types, generation), *_text_entries(weights, types)]
    write_gguf(writer, path, [*entries, *(_mel_entries() if mel else ())])
    return path


def _add_dimensions(writer: gguf.GGUFWriter, weights: Weights) -> None:
    shape = weights.shape
    for key, value in {
        "sample_rate": 16_000,
        "n_mels": shape.n_mels,
        "n_fft": 400,
        "win_length": 400,
        "hop_length": 160,
        "audio.n_layers": shape.encoder_layers,
        "audio.d_model": shape.d_model,
        "audio.n_heads": shape.encoder_heads,
        "audio.head_dim": shape.d_model // shape.encoder_heads,
        "audio.ff_dim": shape.encoder_ffn,
        "audio.conv_channels": shape.channels,
        "audio.proj_dim": shape.hidden,
        "audio.max_source_pos": 1500,
        "llm.n_layers": shape.layers,
        "llm.d_model": shape.hidden,
        "llm.n_heads": shape.heads,
        "llm.n_kv_heads": shape.kv_heads,
        "llm.head_dim": shape.head_dim,
        "llm.ff_dim": shape.ffn,
        "llm.vocab_size": shape.vocab,
        "llm.max_pos": 65_536,
    }.items():
        writer.add_uint32(f"{ARCHITECTURE}.{key}", value)
    writer.add_float32(f"{ARCHITECTURE}.llm.rope_theta", shape.rope_theta)
    writer.add_float32(f"{ARCHITECTURE}.llm.rms_norm_eps", weights.rms_eps)


def _add_vocabulary(
    writer: gguf.GGUFWriter, vocabulary: Vocabulary, n_rows: int, generation: Generation
) -> None:
    for key, text in {
        "audio_start_token_id": "<|audio_start|>",
        "audio_end_token_id": "<|audio_end|>",
        "audio_pad_token_id": "<|audio_pad|>",
        "eos_token_id": "<|im_end|>",
        "pad_token_id": "<|endoftext|>",
    }.items():
        writer.add_uint32(f"{ARCHITECTURE}.{key}", vocabulary.find(text))
    texts = vocabulary.ordinary if generation == "old" else vocabulary.texts
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([texts.get(row, f"[PAD{row}]") for row in range(n_rows)])
    # The converter mistakes every line that begins with # for a comment.
    writer.add_token_merges([line for line in vocabulary.merges if not line.startswith("#")])


def _audio_entries(weights: Weights, types: Types, generation: Generation) -> Iterator[Entry]:
    narrow: Types = types if types == "f16" or generation == "old" else "q8_0"
    for name, ours in _audio_names(weights.shape.encoder_layers):
        for suffix in ("weight", "bias"):
            if f"{ours}.{suffix}" in weights.names:
                yield _entry(weights, f"audio.{name}.{suffix}", f"{ours}.{suffix}", narrow)


def _audio_names(n_layers: int) -> Iterator[tuple[str, str]]:
    tower = "audio_tower"
    for number in (1, 2, 3):
        yield f"conv.{number}", f"{tower}.conv2d{number}"
    yield "conv_out", f"{tower}.conv_out"
    for layer in range(n_layers):
        for name, ours in _AUDIO_LAYER_NAMES.items():
            yield f"blk.{layer}.{name}", f"{tower}.layers.{layer}.{ours}"
    yield "ln_post", f"{tower}.ln_post"
    yield "proj1", "multi_modal_projector.linear_1"
    yield "proj2", "multi_modal_projector.linear_2"


def _text_entries(weights: Weights, types: Types) -> Iterator[Entry]:
    for name, ours in decoder_names(weights.shape.layers):
        yield _entry(weights, name, ours, types)
    yield _entry(weights, "output.weight", HEAD, types)  # stored even if it is tied


def _entry(weights: Weights, name: str, ours: str, types: Types) -> Entry:
    size = weights.size(ours)
    return Entry(name, size, _type(name, size, types), lambda: weights.read(ours))


def _type(name: str, size: tuple[int, ...], types: Types) -> Type:
    """Return the type of a tensor; matrices are quantised, except those with norm in the name."""
    if len(size) == 1:
        return Type.F32
    if types == "f16" or len(size) != 2 or "weight" not in name or "norm" in name:
        return Type.F16
    kind = _NARROW[types]
    while not fits(size, kind):
        if kind not in _FALLBACK:
            return Type.F16
        kind = _FALLBACK[kind]
    return kind


def _mel_entries() -> Iterator[Entry]:
    filters: Float32Array = mel_filters(128).astype(np.float32)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)).astype(np.float32)
    yield Entry("audio.mel_filters", filters.shape, Type.F32, lambda: filters)
    yield Entry("audio.mel_window", window.shape, Type.F32, lambda: window)
