"""Writer of the audio encoder as two ONNX graphs, from the weights.

    front end   chunk_mel [n_chunks, n_mels, frames] -> chunk_out [n_chunks, tokens, d_model]
    back end    hidden_states [n_windows, time, d_model],
                attention_mask [n_windows, 1, time, time], additive
                -> last_hidden_state [n_windows, time, output_dim]

GELU is the exact one (erf). In int8, the linear layers of the back end are quantised.
Source: `Qwen3ASREncoder` and `Qwen3ASRMultiModalProjector` of transformers 5.13 and later.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from streamasr.core.units import Float32Array
from streamasr.importing.graph_writer import GraphWriter, linear, normalise
from streamasr.importing.options import EncoderWidth
from streamasr.importing.qwen3.checkpoint import AudioDimensions, Checkpoint
from streamasr.importing.tensors import Progress, ignore_progress

NORM_EPS: Final = 1e-5
MAX_TIMESCALE: Final = 10_000  # of the sinusoidal positions


def write_frontend(
    checkpoint: Checkpoint,
    path: Path,
    width: EncoderWidth = "fp32",
    progress: Progress = ignore_progress,
) -> None:
    """Write the graph of the convolutions and positions, and its weights beside it.

    Args:
        checkpoint: source of the weights.
        path: the `.onnx` file to write.
        width: type of the weights; `int8` is the same as `fp32`, because onnxruntime's 8-bit
            convolutions are slower than its float32 ones.
        progress: called with the number of bytes done, counted as float32.

    Raises:
        ModelError: a weight is not finite, or exceeds the range of float16.
    """
    audio = checkpoint.audio
    names = [name for name in checkpoint.tensors if name.startswith("audio_tower.conv")]
    with GraphWriter(checkpoint.tensors, path, width, names, progress=progress) as graph:
        hidden = graph.add("Unsqueeze", "chunk_mel", graph.constant(np.array([1])))
        for number in (1, 2, 3):
            hidden = _convolve(graph, hidden, f"audio_tower.conv2d{number}")
        # (chunks, channels, mels, time) -> (chunks, time, channels * mels)
        hidden = graph.add("Transpose", hidden, perm=[0, 3, 1, 2])
        flat = graph.constant(np.array([0, 0, audio.channels * audio.convolved_mels]))
        hidden = graph.add("Reshape", hidden, flat)
        weight = graph.weight("audio_tower.conv_out.weight", transposed=True)
        hidden = graph.add("MatMul", hidden, weight)
        positions = sinusoids(audio.chunk_tokens, audio.d_model)
        graph.add("Add", hidden, graph.constant(positions), output="chunk_out")
        graph.close(
            inputs={"chunk_mel": ("n_chunks", audio.n_mels, audio.chunk_frames)},
            outputs={"chunk_out": ("n_chunks", audio.chunk_tokens, audio.d_model)},
        )


def write_backend(
    checkpoint: Checkpoint,
    path: Path,
    width: EncoderWidth = "fp32",
    progress: Progress = ignore_progress,
) -> None:
    """Write the graph of the transformer and the projection into the LLM, and its weights.

    Args:
        checkpoint: source of the weights.
        path: the `.onnx` file to write.
        width: type of the weights.
        progress: called with the number of bytes done, counted as float32.

    Raises:
        ModelError: a weight is not finite, or exceeds the range of float16.
    """
    audio = checkpoint.audio
    prefixes = ("audio_tower.layers.", "audio_tower.ln_post.", "multi_modal_projector.")
    names = [name for name in checkpoint.tensors if name.startswith(prefixes)]
    with GraphWriter(checkpoint.tensors, path, width, names, progress=progress) as graph:
        hidden = "hidden_states"
        for layer in range(audio.n_layers):
            hidden = _encoder_layer(graph, hidden, f"audio_tower.layers.{layer}.", audio)
        hidden = normalise(graph, hidden, "audio_tower.ln_post", NORM_EPS, output="encoder_output")
        hidden = _gelu(graph, linear(graph, hidden, "multi_modal_projector.linear_1"))
        linear(graph, hidden, "multi_modal_projector.linear_2", output="last_hidden_state")
        graph.close(
            inputs={
                "hidden_states": ("n_windows", "time", audio.d_model),
                "attention_mask": ("n_windows", 1, "time", "time"),
            },
            outputs={"last_hidden_state": ("n_windows", "time", audio.output_dim)},
        )


def sinusoids(length: int, width: int) -> Float32Array:
    """Compute position rows: sines in the first half of the columns, cosines in the second."""
    half = width // 2
    # A width of 2 would divide by zero, as it does in the reference.
    step = np.float32(math.log(MAX_TIMESCALE) / (half - 1))
    inverse_timescales = np.exp(-step * np.arange(half, dtype=np.float32))
    angles = np.arange(length, dtype=np.float32)[:, None] * inverse_timescales
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _convolve(graph: GraphWriter, hidden: str, name: str) -> str:
    hidden = graph.add(
        "Conv",
        hidden,
        graph.weight(f"{name}.weight"),
        graph.vector(f"{name}.bias"),
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
    )
    return _gelu(graph, hidden)


def _encoder_layer(graph: GraphWriter, hidden: str, prefix: str, audio: AudioDimensions) -> str:
    """Add one pre-norm layer: attention, then the feed-forward part, each with its residual."""
    normed = normalise(graph, hidden, f"{prefix}self_attn_layer_norm", NORM_EPS)
    attended = _attention(graph, normed, f"{prefix}self_attn.", audio)
    hidden = graph.add("Add", hidden, attended)
    normed = normalise(graph, hidden, f"{prefix}final_layer_norm", NORM_EPS)
    wide = _gelu(graph, linear(graph, normed, f"{prefix}fc1"))
    return graph.add("Add", hidden, linear(graph, wide, f"{prefix}fc2"))


def _attention(graph: GraphWriter, hidden: str, prefix: str, audio: AudioDimensions) -> str:
    head_dim = audio.d_model // audio.n_heads

    def heads(name: str, axes: Sequence[int]) -> str:
        split = graph.constant(np.array([0, 0, audio.n_heads, head_dim]))
        projected = graph.add("Reshape", linear(graph, hidden, prefix + name), split)
        return graph.add("Transpose", projected, perm=axes)

    queries = heads("q_proj", [0, 2, 1, 3])
    keys = heads("k_proj", [0, 2, 3, 1])
    values = heads("v_proj", [0, 2, 1, 3])
    scores = graph.add("MatMul", queries, keys)
    scores = graph.add("Mul", scores, graph.constant(np.float32(head_dim**-0.5)))
    scores = graph.add("Add", scores, "attention_mask")
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), values)
    mixed = graph.add("Transpose", mixed, perm=[0, 2, 1, 3])
    joined = graph.add("Reshape", mixed, graph.constant(np.array([0, 0, audio.d_model])))
    return linear(graph, joined, f"{prefix}out_proj")


def _gelu(graph: GraphWriter, hidden: str) -> str:
    """Add x / 2 * (1 + erf(x / sqrt 2)), in the form that onnxruntime fuses into one kernel."""
    scaled = graph.add("Div", hidden, graph.constant(np.float32(math.sqrt(2))))
    erf = graph.add("Add", graph.add("Erf", scaled), graph.constant(np.float32(1)))
    product = graph.add("Mul", hidden, erf)
    return graph.add("Mul", product, graph.constant(np.float32(0.5)))
