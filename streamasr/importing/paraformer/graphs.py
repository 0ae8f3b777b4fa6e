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

from pathlib import Path

import numpy as np

from streamasr.core.units import Float32Array
from streamasr.importing.graph_writer import GraphWriter, linear, normalise
from streamasr.importing.options import EncoderWidth
from streamasr.importing.paraformer.checkpoint import (
    Checkpoint,
    decoder_shapes,
    encoder_shapes,
    predictor_shapes,
)
from streamasr.importing.sanm_graph import (
    NORM_EPS,
    EncoderShape,
    add_encoder,
    add_memory,
    attention,
)
from streamasr.importing.tensors import Progress, ignore_progress


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
        encoded = add_encoder(graph, "features", _encoder_shape(checkpoint), output="encoded")
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


def _encoder_shape(checkpoint: Checkpoint) -> EncoderShape:
    sizes, settings = checkpoint.dimensions, checkpoint.settings
    return EncoderShape(
        n_features=sizes.n_features,
        d_model=sizes.d_model,
        n_heads=settings.encoder_heads,
        kernel=sizes.encoder_kernel,
        shift=settings.encoder_shift,
        n_blocks=sizes.n_encoders,
    )


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
    memory = add_memory(graph, normed, name, sizes.decoder_kernel, shift)
    return graph.add("Add", hidden, memory)


def _cross_attention(graph: GraphWriter, hidden: str, prefix: str, checkpoint: Checkpoint) -> str:
    """Add the attention to the encoder's output, with its residual."""
    sizes, settings = checkpoint.dimensions, checkpoint.settings
    normed = normalise(graph, hidden, f"{prefix}.norm3", NORM_EPS)
    queries = linear(graph, normed, f"{prefix}.src_attn.linear_q")
    merged = linear(graph, "encoded", f"{prefix}.src_attn.linear_k_v")
    attended = attention(
        graph,
        queries,
        graph.split(merged, 2),
        n_heads=settings.decoder_heads,
        width=sizes.d_model,
    )
    attended = linear(graph, attended, f"{prefix}.src_attn.linear_out")
    return graph.add("Add", hidden, attended)
