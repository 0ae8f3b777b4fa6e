"""Writer of a Paraformer as two ONNX graphs, from the weights.

The integrate-and-fire mechanism (CIF) between the two is not part of the graphs.

    encoder   features [1, rows, n_features], after stacking and normalisation
              -> encoded [1, rows, d_model]
                 alphas [1, rows], the predictor's weights, without the virtual row after the end
                 time_alphas [1, upsampling * rows], weights of the time head, if there is one
    decoder   encoded [1, rows, d_model], acoustic [1, tokens, d_model]
              -> logits [1, tokens, vocab]

The batch is one clip without padding, so there are no masks. The positions are computed in the
graph, for clips of any length. Depthwise convolutions are written with two dimensions, one of them
1, because onnxruntime has fast kernels for those: half the time. The time head's transposed
convolution has a kernel as long as its stride, so it is a linear layer.

In int8, the output layer and the predictor stay in float32, because they decide which tokens are
emitted, and take a tenth of the time. See `graph_writer.py` for the widths.

Source: funasr 1.4.16: models/sanm/encoder.py and attention.py, models/paraformer/decoder.py and
cif_predictor.py, models/bicif_paraformer/cif_predictor.py.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from streamasr.core.units import Float32Array
from streamasr.importing.graph_writer import FLOAT, GraphWriter, linear, normalise
from streamasr.importing.options import EncoderWidth
from streamasr.importing.paraformer.checkpoint import (
    Checkpoint,
    decoder_shapes,
    encoder_shapes,
    predictor_shapes,
)
from streamasr.importing.tensors import Progress, ignore_progress

NORM_EPS: Final = 1e-12
MAX_TIMESCALE: Final = 10_000  # of the sinusoidal positions


def write_encoder(
    checkpoint: Checkpoint,
    path: Path,
    width: EncoderWidth = "fp32",
    progress: Progress = ignore_progress,
) -> None:
    """Write the graph of the encoder and the predictor, and its weights beside it.

    Args:
        checkpoint: source of the weights.
        path: the `.onnx` file to write.
        width: type of the weights.
        progress: called with the number of bytes done, counted as float32.

    Raises:
        ModelError: a weight is not finite, or exceeds the range of float16.
    """
    sizes = checkpoint.dimensions
    names = [*encoder_shapes(sizes), *predictor_shapes(sizes)]
    with GraphWriter(checkpoint.tensors, path, width, names, progress=progress) as graph:
        hidden = _add_positions(graph, "features", sizes.n_features, sizes.d_model)
        blocks = [f"encoder.encoders.{number}" for number in range(sizes.n_encoders)]
        for prefix in ("encoder.encoders0.0", *blocks):
            hidden = _encoder_block(graph, hidden, prefix, checkpoint)
        encoded = normalise(graph, hidden, "encoder.after_norm", NORM_EPS, output="encoded")
        _predictor(graph, encoded, checkpoint)
        outputs: dict[str, tuple[str | int, ...]] = {
            "encoded": (1, "rows", sizes.d_model),
            "alphas": (1, "rows"),
        }
        if sizes.upsampling:
            outputs["time_alphas"] = (1, "steps")
        graph.close({"features": (1, "rows", sizes.n_features)}, outputs)


def write_decoder(
    checkpoint: Checkpoint,
    path: Path,
    width: EncoderWidth = "fp32",
    progress: Progress = ignore_progress,
) -> None:
    """Write the graph of the decoder, and its weights beside it.

    Args:
        checkpoint: source of the weights.
        path: the `.onnx` file to write.
        width: type of the weights.
        progress: called with the number of bytes done, counted as float32.

    Raises:
        ModelError: a weight is not finite, or exceeds the range of float16.
    """
    sizes = checkpoint.dimensions
    names = [*decoder_shapes(sizes)]
    with GraphWriter(
        checkpoint.tensors, path, width, names, progress=progress, part="decoder"
    ) as graph:
        hidden = "acoustic"
        for number in range(sizes.n_decoders):
            prefix = f"decoder.decoders.{number}"
            hidden = _decoder_memory(graph, hidden, prefix, checkpoint)
            hidden = _cross_attention(graph, hidden, prefix, checkpoint)
        for number in range(sizes.n_decoders2):
            hidden = _decoder_memory(graph, hidden, f"decoder.decoders2.{number}", checkpoint)
        hidden = _decoder_feed_forward(graph, hidden, "decoder.decoders3.0")
        hidden = normalise(graph, hidden, "decoder.after_norm", NORM_EPS)
        linear(graph, hidden, "decoder.output_layer", output="logits", is_exact=True)
        graph.close(
            inputs={
                "encoded": (1, "rows", sizes.d_model),
                "acoustic": (1, "tokens", sizes.d_model),
            },
            outputs={"logits": (1, "tokens", sizes.vocab)},
        )


def _add_positions(graph: GraphWriter, features: str, n_features: int, d_model: int) -> str:
    """Scale the features and add positions from 1: sines, then cosines."""
    half = n_features // 2
    scaled = graph.add("Mul", features, graph.constant(np.float32(d_model**0.5)))
    n_rows = graph.add("Cast", graph.add("Shape", features, start=1, end=2), to=FLOAT)
    n_rows = graph.add("Squeeze", n_rows)
    one = graph.constant(np.float32(1))
    positions = graph.add("Range", one, graph.add("Add", n_rows, one), one)
    positions = graph.add("Reshape", positions, graph.constant(np.array([1, -1, 1])))
    step = np.float32(math.log(MAX_TIMESCALE) / (half - 1))
    inverse_timescales = np.exp(-step * np.arange(half, dtype=np.float32))
    angles = graph.add("Mul", positions, graph.constant(inverse_timescales))
    waves = [graph.add("Sin", angles), graph.add("Cos", angles)]
    return graph.add("Add", scaled, graph.add("Concat", *waves, axis=-1))


def _encoder_block(graph: GraphWriter, hidden: str, prefix: str, checkpoint: Checkpoint) -> str:
    """Add one pre-norm block; attention has no residual where it changes the width."""
    sizes, settings = checkpoint.dimensions, checkpoint.settings
    inputs = sizes.n_features if prefix == "encoder.encoders0.0" else sizes.d_model
    normed = normalise(graph, hidden, f"{prefix}.norm1", NORM_EPS)
    merged = linear(graph, normed, f"{prefix}.self_attn.linear_q_k_v")
    queries, keys, values = graph.split(merged, 3)
    attended = _attention(
        graph, queries, (keys, values), n_heads=settings.encoder_heads, width=sizes.d_model
    )
    attended = linear(graph, attended, f"{prefix}.self_attn.linear_out")
    name = f"{prefix}.self_attn.fsmn_block.weight"
    memory = _memory(graph, values, name, sizes.encoder_kernel, settings.encoder_shift)
    attended = graph.add("Add", attended, memory)
    hidden = graph.add("Add", hidden, attended) if inputs == sizes.d_model else attended
    normed = normalise(graph, hidden, f"{prefix}.norm2", NORM_EPS)
    wide = graph.add("Relu", linear(graph, normed, f"{prefix}.feed_forward.w_1"))
    return graph.add("Add", hidden, linear(graph, wide, f"{prefix}.feed_forward.w_2"))


def _attention(
    graph: GraphWriter, queries: str, pair: Sequence[str], *, n_heads: int, width: int
) -> str:
    """Add scaled dot-product attention.

    Args:
        graph: destination.
        queries: [1, n, width].
        pair: keys and values, [1, m, width].
        n_heads: number of heads.
        width: of all heads together.

    Returns:
        Name of the output, [1, n, width].
    """
    head_width = width // n_heads
    keys, values = pair

    def heads(hidden: str, axes: Sequence[int]) -> str:
        split = graph.constant(np.array([0, 0, n_heads, head_width]))
        return graph.add("Transpose", graph.add("Reshape", hidden, split), perm=axes)

    queries = graph.add("Mul", queries, graph.constant(np.float32(head_width**-0.5)))
    scores = graph.add("MatMul", heads(queries, [0, 2, 1, 3]), heads(keys, [0, 2, 3, 1]))
    weights = graph.add("Softmax", scores, axis=-1)
    mixed = graph.add("MatMul", weights, heads(values, [0, 2, 1, 3]))
    mixed = graph.add("Transpose", mixed, perm=[0, 2, 1, 3])
    return graph.add("Reshape", mixed, graph.constant(np.array([0, 0, width])))


def _memory(graph: GraphWriter, hidden: str, name: str, kernel: int, shift: int) -> str:
    """Add a memory block (FSMN): a depthwise convolution over the rows, with its own residual.

    Args:
        graph: destination.
        hidden: [1, n, width].
        name: the weight, (width, 1, kernel).
        kernel: its length.
        shift: rows by which the convolution begins earlier than a centred one.
    """
    width = graph.shape_of(name)[0]
    past = (kernel - 1) // 2 + shift
    axis = graph.constant(np.array([2]))
    columns = graph.add("Unsqueeze", graph.add("Transpose", hidden, perm=[0, 2, 1]), axis)
    filtered = graph.add(
        "Conv",
        columns,
        graph.weight(name, shape=(width, 1, 1, kernel)),
        group=width,
        kernel_shape=[1, kernel],
        pads=[0, past, 0, kernel - 1 - past],
    )
    filtered = graph.add("Transpose", graph.add("Squeeze", filtered, axis), perm=[0, 2, 1])
    return graph.add("Add", filtered, hidden)


def _predictor(graph: GraphWriter, encoded: str, checkpoint: Checkpoint) -> None:
    """Add the outputs `alphas` and, with a time head, `time_alphas`."""
    sizes, settings = checkpoint.dimensions, checkpoint.settings
    convolved = graph.add(
        "Conv",
        graph.add("Transpose", encoded, perm=[0, 2, 1]),
        graph.weight("predictor.cif_conv1d.weight"),
        graph.vector("predictor.cif_conv1d.bias"),
        kernel_shape=[sizes.predictor_kernel],
        pads=[settings.left_context, sizes.predictor_kernel - 1 - settings.left_context],
    )
    convolved = graph.add("Transpose", graph.add("Relu", convolved), perm=[0, 2, 1])
    weighed = linear(graph, convolved, "predictor.cif_output", is_exact=True)
    _weights(graph, weighed, settings.smooth, settings.noise, "alphas")
    if not sizes.upsampling:
        return
    head = settings.time_head
    hidden = _upsample(graph, convolved if head.is_after_convolution else encoded, checkpoint)
    if sizes.lstm:
        hidden = _lstm(graph, hidden, sizes.lstm)
    weighed = linear(graph, hidden, "predictor.cif_output2", is_exact=True)
    _weights(graph, weighed, head.smooth, head.noise, "time_alphas")


def _weights(graph: GraphWriter, hidden: str, smooth: float, noise: float, output: str) -> None:
    """Add max(0, smooth * sigmoid(x) - noise), without the last axis of length 1."""
    weights = graph.add("Sigmoid", hidden)
    weights = graph.add("Mul", weights, graph.constant(np.float32(smooth)))
    weights = graph.add("Relu", graph.add("Sub", weights, graph.constant(np.float32(noise))))
    graph.add("Squeeze", weights, graph.constant(np.array([-1])), output=output)


def _upsample(graph: GraphWriter, hidden: str, checkpoint: Checkpoint) -> str:
    """Add the transposed convolution: [1, n, width] -> [1, upsampling * n, width]."""
    sizes = checkpoint.dimensions

    def as_matrix(weight: Float32Array) -> Float32Array:
        return weight.transpose(0, 2, 1).reshape(len(weight), -1)  # (in, steps * out)

    name = "predictor.upsample_cnn"
    matrix = graph.composed_weight(f"{name}.matrix", [f"{name}.weight"], as_matrix)
    steps = graph.add("MatMul", hidden, matrix)
    steps = graph.add("Reshape", steps, graph.constant(np.array([1, -1, sizes.d_model])))
    return graph.add("Add", steps, graph.vector(f"{name}.bias"))


def _lstm(graph: GraphWriter, hidden: str, width: int) -> str:
    """Add an LSTM in both directions: [1, n, inputs] -> [1, n, 2 * width]."""

    def both(kind: str) -> list[str]:
        return [f"predictor.blstm.{kind}_l0{suffix}" for suffix in ("", "_reverse")]

    def reordered(*directions: Float32Array) -> Float32Array:
        return np.stack([_gates(each) for each in directions])

    def biases(*parts: Float32Array) -> Float32Array:
        inner, outer, inner_reverse, outer_reverse = map(_gates, parts)
        return np.stack(
            [np.concatenate([inner, outer]), np.concatenate([inner_reverse, outer_reverse])]
        )

    inputs = graph.composed_weight("predictor.blstm.W", both("weight_ih"), reordered)
    states = graph.composed_weight("predictor.blstm.R", both("weight_hh"), reordered)
    pairs = zip(both("bias_ih"), both("bias_hh"), strict=True)
    bias = graph.composed_vector("predictor.blstm.B", [n for pair in pairs for n in pair], biases)
    rows = graph.add("Transpose", hidden, perm=[1, 0, 2])
    rows = graph.add(
        "LSTM", rows, inputs, states, bias, hidden_size=width, direction="bidirectional"
    )
    # (n, directions, 1, width) -> (1, n, directions * width)
    rows = graph.add("Transpose", rows, perm=[2, 0, 1, 3])
    return graph.add("Reshape", rows, graph.constant(np.array([0, 0, 2 * width])))


def _gates(values: Float32Array) -> Float32Array:
    """Reorder gates from PyTorch's order (input, forget, cell, output) to ONNX's (i, o, f, c)."""
    inner, forget, cell, outer = np.split(values, 4)
    return np.concatenate([inner, outer, forget, cell])


def _decoder_feed_forward(graph: GraphWriter, hidden: str, prefix: str) -> str:
    """Add the feed-forward part, without a residual."""
    normed = normalise(graph, hidden, f"{prefix}.norm1", NORM_EPS)
    wide = graph.add("Relu", linear(graph, normed, f"{prefix}.feed_forward.w_1"))
    wide = normalise(graph, wide, f"{prefix}.feed_forward.norm", NORM_EPS)
    return linear(graph, wide, f"{prefix}.feed_forward.w_2", has_bias=False)


def _decoder_memory(graph: GraphWriter, hidden: str, prefix: str, checkpoint: Checkpoint) -> str:
    """Add feed-forward part and memory block, with one residual around both."""
    sizes, settings = checkpoint.dimensions, checkpoint.settings
    inner = _decoder_feed_forward(graph, hidden, prefix)
    normed = normalise(graph, inner, f"{prefix}.norm2", NORM_EPS)
    # funasr shifts only the layers with attention to the encoder.
    shift = 0 if prefix.startswith("decoder.decoders2.") else settings.decoder_shift
    name = f"{prefix}.self_attn.fsmn_block.weight"
    memory = _memory(graph, normed, name, sizes.decoder_kernel, shift)
    return graph.add("Add", hidden, memory)


def _cross_attention(graph: GraphWriter, hidden: str, prefix: str, checkpoint: Checkpoint) -> str:
    """Add the attention to the encoder's output, with its residual."""
    sizes, settings = checkpoint.dimensions, checkpoint.settings
    normed = normalise(graph, hidden, f"{prefix}.norm3", NORM_EPS)
    queries = linear(graph, normed, f"{prefix}.src_attn.linear_q")
    merged = linear(graph, "encoded", f"{prefix}.src_attn.linear_k_v")
    attended = _attention(
        graph,
        queries,
        graph.split(merged, 2),
        n_heads=settings.decoder_heads,
        width=sizes.d_model,
    )
    attended = linear(graph, attended, f"{prefix}.src_attn.linear_out")
    return graph.add("Add", hidden, attended)
