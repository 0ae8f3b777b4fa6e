"""Writer of a text GGUF and an `mmproj` GGUF with the encoder, as llama.cpp converts the model.

Properties from llama.cpp's `conversion/qwen3vl.py`, `qwenvl.py` and `base.py`: names are those of
`gguf`'s tensor map; convolutions and `conv_out` are F16 in every file type; biases of convolutions
have two more axes; the table of positions is stored, with 1500 rows of which 13 are used.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType

from tests.sources.decoder import DecoderOptions, write_decoder
from tests.sources.gguf_file import Entry, fits, write_gguf
from tests.sources.weights import HEAD, IM_END, Float32Array, Weights

Width = Literal["f16", "bf16", "q8_0"]

N_POSITIONS: Final = 1500

_TYPES: Final = {"f16": Type.F16, "bf16": Type.BF16, "q8_0": Type.Q8_0}
_FILE_TYPES: Final = {
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
}
_LAYER_NAMES: Final = {
    "ln1": "self_attn_layer_norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.out_proj",
    "ln2": "final_layer_norm",
    "ffn_up": "fc1",
    "ffn_down": "fc2",
}


def write_ggml_org(
    checkpoint: Path, directory: Path, text: Width = "f16", projector: Width = "f16"
) -> Path:
    """Write both files and return the directory.

    Args:
        checkpoint: a recogniser; aligners are not published in this form.
        directory: destination.
        text: type of the LLM's matrices.
        projector: type of the encoder's matrices.
    """
    weights = Weights(checkpoint)
    name = f"Qwen3-ASR-{checkpoint.name}"
    directory.mkdir(parents=True, exist_ok=True)
    options = DecoderOptions(
        kind=_TYPES[text],
        has_output=HEAD in weights.names,  # without a head, llama.cpp uses the embeddings
        has_chat_template=True,
        begin=IM_END,
    )
    write_decoder(weights, directory / f"{name}-{text}.gguf", options)
    write_projector(weights, directory / f"mmproj-{name}-{projector}.gguf", projector)
    return directory


def write_projector(weights: Weights, path: Path, width: Width) -> None:
    """Write the encoder."""
    shape = weights.shape
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_name(weights.directory.name)
    writer.add_license("apache-2.0")
    writer.add_file_type(_FILE_TYPES[width])
    writer.add_clip_has_audio_encoder(True)
    writer.add_audio_projection_dim(shape.hidden)
    writer.add_audio_embedding_length(shape.d_model)
    writer.add_audio_feed_forward_length(shape.encoder_ffn)
    writer.add_audio_block_count(shape.encoder_layers)
    writer.add_audio_head_count(shape.encoder_heads)
    writer.add_audio_num_mel_bins(shape.n_mels)
    writer.add_audio_attention_layernorm_eps(1e-5)
    writer.add_clip_audio_projector_type("qwen3a")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_gguf(writer, path, list(_entries(weights, _TYPES[width])))


def _entries(weights: Weights, kind: Type) -> Iterator[Entry]:
    positions = _sinusoids(weights.shape.d_model)
    yield Entry("a.position_embd.weight", positions.shape, Type.F32, lambda: positions)
    for number in (1, 2, 3):
        conv = f"audio_tower.conv2d{number}"
        yield _entry(weights, f"a.conv2d.{number}.weight", f"{conv}.weight", Type.F16)
        yield _conv_bias(weights, f"a.conv2d.{number}.bias", f"{conv}.bias")
    yield _entry(weights, "a.conv_out.weight", "audio_tower.conv_out.weight", Type.F16)
    for name, ours in _linear_names(weights.shape.encoder_layers):
        yield _entry(weights, f"{name}.weight", f"{ours}.weight", kind)
        yield _entry(weights, f"{name}.bias", f"{ours}.bias", kind)


def _linear_names(n_layers: int) -> Iterator[tuple[str, str]]:
    for layer in range(n_layers):
        for name, ours in _LAYER_NAMES.items():
            yield f"a.blk.{layer}.{name}", f"audio_tower.layers.{layer}.{ours}"
    yield "a.post_ln", "audio_tower.ln_post"
    yield "mm.a.mlp.1", "multi_modal_projector.linear_1"
    yield "mm.a.mlp.2", "multi_modal_projector.linear_2"


def _entry(weights: Weights, name: str, ours: str, kind: Type) -> Entry:
    size = weights.size(ours)
    if len(size) == 1:
        kind = Type.F32
    elif not fits(size, kind):
        kind = Type.F16
    return Entry(name, size, kind, lambda: weights.read(ours))


def _conv_bias(weights: Weights, name: str, ours: str) -> Entry:
    (length,) = weights.size(ours)
    return Entry(name, (length, 1, 1), Type.F32, lambda: weights.read(ours).reshape(length, 1, 1))


def _sinusoids(width: int) -> Float32Array:
    step = np.log(10_000) / (width // 2 - 1)
    angles = np.arange(N_POSITIONS)[:, None] * np.exp(-step * np.arange(width // 2))[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
