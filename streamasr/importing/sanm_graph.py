"""Writer of the SAN-M encoder: blocks of self-attention with a memory of the rows around each row.

It is the encoder of Paraformer and of ct-punc. Names of tensors are those of FunASR's checkpoints:
`encoder.encoders0.0.*`, `encoder.encoders.N.*`, `encoder.after_norm.*`. The batch is one input
without padding, so there are no masks; positions are computed in the graph, for any length.

Source: funasr 1.4.16: models/sanm/encoder.py and attention.py, models/transformer/embedding.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from streamasr.importing.graph_writer import FLOAT, GraphWriter, linear, normalise

NORM_EPS: Final = 1e-12
MAX_TIMESCALE: Final = 10_000  # of the sinusoidal positions


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """Sizes of an encoder, and what its tensors do not show."""

    n_features: int
    d_model: int
    n_heads: int
    kernel: int
    """Rows in a memory block (FSMN)."""
    shift: int
    """Rows by which the memory begins earlier than a centred one."""
    n_blocks: int
    """After the first one."""


def add_encoder(
    graph: GraphWriter, features: str, shape: EncoderShape, *, output: str | None = None
) -> str:
    """Add a whole encoder: [1, n, n_features] -> [1, n, d_model]."""
    hidden = _add_positions(graph, features, shape.n_features, shape.d_model)
    blocks = [f"encoder.encoders.{number}" for number in range(shape.n_blocks)]
    for prefix in ("encoder.encoders0.0", *blocks):
        hidden = _encoder_block(graph, hidden, prefix, shape)
    return normalise(graph, hidden, "encoder.after_norm", NORM_EPS, output=output)


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


def _encoder_block(graph: GraphWriter, hidden: str, prefix: str, shape: EncoderShape) -> str:
    """Add one pre-norm block; attention has no residual where it changes the width."""
    inputs = shape.n_features if prefix == "encoder.encoders0.0" else shape.d_model
    normed = normalise(graph, hidden, f"{prefix}.norm1", NORM_EPS)
    merged = linear(graph, normed, f"{prefix}.self_attn.linear_q_k_v")
    queries, keys, values = graph.split(merged, 3)
    attended = attention(graph, queries, (keys, values), n_heads=shape.n_heads, width=shape.d_model)
    attended = linear(graph, attended, f"{prefix}.self_attn.linear_out")
    name = f"{prefix}.self_attn.fsmn_block.weight"
    memory = add_memory(graph, values, name, shape.kernel, shape.shift)
    attended = graph.add("Add", attended, memory)
    hidden = graph.add("Add", hidden, attended) if inputs == shape.d_model else attended
    normed = normalise(graph, hidden, f"{prefix}.norm2", NORM_EPS)
    wide = graph.add("Relu", linear(graph, normed, f"{prefix}.feed_forward.w_1"))
    return graph.add("Add", hidden, linear(graph, wide, f"{prefix}.feed_forward.w_2"))


def attention(
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


def add_memory(graph: GraphWriter, hidden: str, name: str, kernel: int, shift: int) -> str:
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
