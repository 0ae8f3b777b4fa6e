"""Writers of released ONNX graphs of whole Paraformers: FunASR's folders and sherpa-onnx's.

    speech [batch, rows, 560], speech_lengths [batch]   int32
    bias_embed [batch, hotwords, d_model]                  SeACo only
    -> logits [batch, tokens, vocab], log-probabilities; token_num [batch], int32
       us_alphas, us_cif_peak [batch, 3 * rows]         with a time head only

The graphs compute a batch of one, which the runtimes of sherpa-onnx and streamasr use. CIF is
written as an overlap of intervals: of token n, the part of each row's weight between n and n + 1.
8-bit graphs are made with onnxruntime's dynamic quantiser, without the output layer, as by FunASR.

Source: `shared/reference/paraformer.md`, sections 3 to 8 and 12.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from streamasr.models.onnx import load_onnxruntime
from tests.sources.paraformer.onnx_builder import IR_VERSION, Graph
from tests.sources.paraformer.original import write_sidecars
from tests.sources.paraformer.weights import (
    N_FEATURES,
    SEACO_KERNEL,
    SEACO_LAYERS,
    Weights,
    cmvn,
    token_list,
)

Precision = Literal["fp32", "int8"]

_FIRE: Final = 1 - 1e-4
NO_BIAS: Final = 8377
"""Class of SeACo for "no hotword"; a smaller vocabulary has its last but one."""


def write_funasr_export(
    weights: Weights, folder: Path, precisions: Sequence[Precision] = ("fp32",)
) -> Path:
    """Write a folder of FunASR's export and return it."""
    folder.mkdir(parents=True)
    write_sidecars(weights, folder)
    _write_all(folder, "model", "model_quant", whole_graph(weights), precisions)
    if weights.sizes.has_hotwords:
        _write_all(folder, "model_eb", "model_eb_quant", hotword_graph(weights), precisions)
    return folder


def write_sherpa_export(
    weights: Weights, folder: Path, precisions: Sequence[Precision] = ("fp32",)
) -> Path:
    """Write a folder as released by sherpa-onnx and return it."""
    folder.mkdir(parents=True)
    tokens = token_list(weights.sizes.vocab)
    lines = (f"{token} {number}\n" for number, token in enumerate(tokens))
    (folder / "tokens.txt").write_text("".join(lines), "utf-8")
    model = whole_graph(weights)
    helper.set_model_props(model, sherpa_metadata(weights))
    _write_all(folder, "model", "model.int8", model, precisions)
    return folder


def sherpa_metadata(weights: Weights) -> dict[str, str]:
    """Return the metadata of sherpa-onnx."""
    shift, scale = cmvn()
    return {
        "lfr_window_size": "7",
        "lfr_window_shift": "6",
        "neg_mean": ",".join(f"{value:.6f}" for value in shift),
        "inv_stddev": ",".join(f"{value:.6f}" for value in scale),
        "model_type": "paraformer",
        "version": "1",
        "model_author": "damo",
        "vocab_size": str(weights.sizes.vocab),
    }


def write_streaming(folder: Path, *, sherpa: bool) -> Path:
    """Write the streaming (online) export: two graphs with its inputs and outputs."""
    folder.mkdir(parents=True)
    encoder, decoder = (
        ("encoder.onnx", "decoder.onnx") if sherpa else ("model.onnx", "decoder.onnx")
    )
    _write_ports(
        folder / encoder,
        {"speech": ("b", "t", N_FEATURES), "speech_lengths": ("b",)},
        {"enc": ("b", "t", 512), "enc_len": ("b",), "alphas": ("b", "t")},
        {"model_type": "paraformer", "decoder_num_blocks": "16"} if sherpa else {},
    )
    caches = [f"cache_{number}" for number in range(16)]
    _write_ports(
        folder / decoder,
        {"enc": ("b", "t", 512), "enc_len": ("b",), "acoustic_embeds": ("b", "n", 512)}
        | {"acoustic_embeds_len": ("b",)}
        | {f"in_{cache}": ("b", 512, 10) for cache in caches},
        {"logits": ("b", "n", 8404), "sample_ids": ("b", "n")}
        | {f"out_{cache}": ("b", 512, 10) for cache in caches},
    )
    (folder / "tokens.json").write_text(json.dumps(token_list(8404)), "utf-8")
    return folder


def _write_ports(
    path: Path,
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a graph that copies its first input to all outputs."""
    nodes = [helper.make_node("Identity", [next(iter(inputs))], [name]) for name in outputs]
    taken, given = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ports]
        for ports in (inputs.items(), outputs.items())
    )
    model = helper.make_model(helper.make_graph(nodes, "g", taken, given), ir_version=IR_VERSION)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, path)


def _write_all(
    folder: Path, name: str, narrow: str, model: onnx.ModelProto, precisions: Sequence[Precision]
) -> None:
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    del model
    if "int8" in precisions:
        _quantize(path, folder / f"{narrow}.onnx", metadata)
    if "fp32" not in precisions:
        path.unlink()


def _quantize(path: Path, destination: Path, metadata: Mapping[str, str]) -> None:
    load_onnxruntime()  # disables onnxruntime's telemetry
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        path,
        destination,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QUInt8,
        nodes_to_exclude=["output_layer"],
    )
    if metadata:
        model = onnx.load(destination)
        helper.set_model_props(model, dict(metadata))
        onnx.save(model, destination)


# The graphs


def whole_graph(weights: Weights) -> onnx.ModelProto:
    """Build the graph of the whole model."""
    sizes = weights.sizes
    graph = Graph(weights)
    encoded = _encoder(graph, "speech")
    alphas, convolved = _main_weights(graph, encoded)
    acoustic, count = _integrate(graph, encoded, alphas)
    hidden = _decoder(graph, "decoder", encoded, acoustic)
    hidden = graph.norm(hidden, "decoder.after_norm")
    scores = graph.linear(hidden, "decoder.output_layer", node="output_layer")
    scores = graph.node("LogSoftmax", scores, axis=-1)
    if sizes.has_hotwords:
        scores = _merge_hotwords(graph, scores, acoustic, hidden)
    graph.node("Identity", scores, output="logits")
    _token_num(graph, count)
    inputs: dict[str, Sequence[int | str]] = {"speech": ("batch_size", "feats_length", N_FEATURES)}
    if sizes.has_hotwords:
        inputs["bias_embed"] = ("batch_size", "num_hotwords", sizes.d_model)
    outputs: dict[str, Sequence[int | str]] = {
        "logits": ("batch_size", "logits_length", sizes.vocab)
    }
    if sizes.head:
        _time_weights(graph, convolved if sizes.is_after_convolution else encoded, count)
        outputs |= dict.fromkeys(("us_alphas", "us_cif_peak"), ("batch_size", "alphas_length"))
    return graph.model(inputs, outputs, lengths="speech_lengths", count="token_num")


def _encoder(graph: Graph, speech: str) -> str:
    sizes = graph.weights.sizes
    hidden = graph.node("Mul", speech, graph.value(np.float32(sizes.d_model**0.5)))
    hidden = graph.node("Add", hidden, _positions(graph, speech))
    # The mask of a batch of one is all ones; it keeps the input of lengths in use.
    lengths = graph.node("Cast", "speech_lengths", to=TensorProto.FLOAT)
    nothing = graph.node("Mul", lengths, graph.value(np.float32(0)))
    hidden = graph.node("Add", hidden, nothing)
    names = ["encoder.encoders0.0"]
    names += [f"encoder.encoders.{number}" for number in range(sizes.blocks - 1)]
    for number, name in enumerate(names):
        normed = graph.norm(hidden, f"{name}.norm1")
        merged = graph.linear(normed, f"{name}.self_attn.linear_q_k_v")
        queries, keys, values = graph.parts(merged, 3)
        mixed = graph.attention(queries, keys, values, f"{name}.self_attn.linear_out")
        memory = graph.fsmn(values, f"{name}.self_attn.fsmn_block", sizes.kernel, sizes.shift)
        attended = graph.node("Add", mixed, memory)
        is_square = number > 0 or sizes.d_model == N_FEATURES
        hidden = graph.node("Add", hidden, attended) if is_square else attended
        normed = graph.norm(hidden, f"{name}.norm2")
        wide = graph.node("Relu", graph.linear(normed, f"{name}.feed_forward.w_1"))
        hidden = graph.node("Add", hidden, graph.linear(wide, f"{name}.feed_forward.w_2"))
    return graph.norm(hidden, "encoder.after_norm")


def _positions(graph: Graph, speech: str) -> str:
    """Add a table of positions, as long as the longest clip that FunASR accepts, and cut it."""
    length, half = 20_000, N_FEATURES // 2
    increment = np.log(10_000.0) / (half - 1)
    scales = np.exp(-increment * np.arange(half))
    # A full table has 45 MB, which no released graph has; the angles are computed instead.
    places = graph.value(np.arange(1, length + 1, dtype=np.float32)[:, None])
    n_rows = graph.node("Slice", graph.node("Shape", speech), *graph.ints([1], [2], [0]))
    places = graph.node("Slice", places, *graph.ints([0]), n_rows, *graph.ints([0]))
    angles = graph.node("Mul", places, graph.value(scales.astype(np.float32)))
    waves = (graph.node("Sin", angles), graph.node("Cos", angles))
    return graph.node("Concat", *waves, axis=-1)


def _main_weights(graph: Graph, encoded: str) -> tuple[str, str]:
    sizes = graph.weights.sizes
    columns = graph.node("Transpose", encoded, perm=[0, 2, 1])
    convolved = graph.node(
        "Conv",
        columns,
        graph.tensor("predictor.cif_conv1d.weight"),
        graph.tensor("predictor.cif_conv1d.bias"),
        pads=[sizes.left, sizes.right],
    )
    convolved = graph.node("Transpose", graph.node("Relu", convolved), perm=[0, 2, 1])
    weights = graph.node("Sigmoid", graph.linear(convolved, "predictor.cif_output"))
    weights = graph.node("Mul", weights, graph.value(np.float32(sizes.smooth)))
    weights = graph.node("Sub", weights, graph.value(np.float32(sizes.noise)))
    return graph.node("Relu", weights), convolved


def _integrate(graph: Graph, encoded: str, alphas: str) -> tuple[str, str]:
    """Add CIF: [1, rows, width], [1, rows, 1] -> [1, tokens, width], [1, 1, 1] in float."""
    width = graph.weights.sizes.d_model
    rows = graph.node("Concat", encoded, graph.value(np.zeros((1, 1, width), np.float32)), axis=1)
    tail = graph.value(np.full((1, 1, 1), 0.45, np.float32))
    alphas = graph.node("Concat", alphas, tail, axis=1)
    ends = graph.node("CumSum", graph.node("Cast", alphas, to=TensorProto.DOUBLE), graph.number(1))
    begins = graph.node("Sub", ends, graph.node("Cast", alphas, to=TensorProto.DOUBLE))
    last = graph.node("Slice", ends, *graph.ints([-1], [2**31 - 1], [1]))
    count = graph.node("Floor", last)
    scalar = graph.node("Squeeze", graph.node("Cast", count, to=TensorProto.INT64))
    zero, one = (graph.value(np.array(number, np.int64)) for number in (0, 1))
    numbers = graph.node("Range", zero, scalar, one)
    numbers = graph.node("Cast", numbers, to=TensorProto.DOUBLE)  # (tokens,), against (1, rows, 1)
    above = graph.node("Add", numbers, graph.value(np.array(1.0)))
    overlap = graph.node("Sub", graph.node("Min", ends, above), graph.node("Max", begins, numbers))
    overlap = graph.node("Max", overlap, graph.value(np.array(0.0)))
    overlap = graph.node("Cast", overlap, to=TensorProto.FLOAT)
    overlap = graph.node("Transpose", overlap, perm=[0, 2, 1])
    return graph.node("MatMul", overlap, rows), graph.node("Cast", count, to=TensorProto.FLOAT)


def _token_num(graph: Graph, count: str) -> None:
    whole = graph.node("Cast", count, to=TensorProto.INT32)
    graph.node("Reshape", whole, graph.value(np.array([-1])), output="token_num")


def _decoder(graph: Graph, prefix: str, memory: str, hidden: str) -> str:
    """Add the layers of a decoder, without the last norm."""
    sizes = graph.weights.sizes
    layers = sizes.layers if prefix == "decoder" else SEACO_LAYERS
    kernel = sizes.decoder_kernel if prefix == "decoder" else SEACO_KERNEL
    shift = sizes.decoder_shift if prefix == "decoder" else 0
    names = [f"{prefix}.decoders.{number}" for number in range(layers)]
    if prefix == "decoder":
        others = range(sizes.layers_without_attention)
        names += [f"{prefix}.decoders2.{number}" for number in others]
    for name in names:
        normed = graph.norm(_feed_forward(graph, hidden, name), f"{name}.norm2")
        own_shift = 0 if "decoders2" in name else shift
        filtered = graph.fsmn(normed, f"{name}.self_attn.fsmn_block", kernel, own_shift)
        hidden = graph.node("Add", hidden, filtered)
        if "decoders2" in name:
            continue
        normed = graph.norm(hidden, f"{name}.norm3")
        queries = graph.linear(normed, f"{name}.src_attn.linear_q")
        keys, values = graph.parts(graph.linear(memory, f"{name}.src_attn.linear_k_v"), 2)
        mixed = graph.attention(queries, keys, values, f"{name}.src_attn.linear_out")
        hidden = graph.node("Add", hidden, mixed)
    return _feed_forward(graph, hidden, f"{prefix}.decoders3.0")


def _feed_forward(graph: Graph, hidden: str, name: str) -> str:
    normed = graph.norm(hidden, f"{name}.norm1")
    wide = graph.node("Relu", graph.linear(normed, f"{name}.feed_forward.w_1"))
    wide = graph.norm(wide, f"{name}.feed_forward.norm")
    return graph.linear(wide, f"{name}.feed_forward.w_2", has_bias=False)


def _time_weights(graph: Graph, hidden: str, count: str) -> None:
    """Add the outputs of the time head: weights whose sum is the number of tokens, and peaks."""
    sizes = graph.weights.sizes
    columns = graph.node("Transpose", hidden, perm=[0, 2, 1])
    columns = graph.node(
        "ConvTranspose",
        columns,
        graph.tensor("predictor.upsample_cnn.weight"),
        graph.tensor("predictor.upsample_cnn.bias"),
        strides=[sizes.upsampling],
    )
    steps = graph.node("Transpose", columns, perm=[0, 2, 1])
    if sizes.head == "cnn_blstm":
        steps = graph.lstm(steps, "predictor.blstm", 0, ("", "_reverse"))
    weights = graph.node("Sigmoid", graph.linear(steps, "predictor.cif_output2"))
    weights = graph.node("Mul", weights, graph.value(np.float32(0.25)))
    weights = graph.node("Relu", graph.node("Sub", weights, graph.value(np.float32(0.01))))
    total = graph.node("ReduceSum", weights, graph.value(np.array([1])), keepdims=1)
    weights = graph.node("Mul", weights, graph.node("Div", count, total))
    weights = graph.node("Squeeze", weights, graph.value(np.array([2])))
    graph.node("Identity", weights, output="us_alphas")
    # A step shows the sum since the last fire, including its own weight.
    ends = graph.node("CumSum", graph.node("Cast", weights, to=TensorProto.DOUBLE), graph.number(1))
    own = graph.node("Cast", weights, to=TensorProto.DOUBLE)
    begins = graph.node("Sub", ends, own)
    fired = graph.node("Floor", graph.node("Div", begins, graph.value(np.array(_FIRE))))
    done = graph.node("Mul", fired, graph.value(np.array(_FIRE)))
    peaks = graph.node("Cast", graph.node("Sub", ends, done), to=TensorProto.FLOAT)
    graph.node("Identity", peaks, output="us_cif_peak")


def _merge_hotwords(graph: Graph, scores: str, acoustic: str, hidden: str) -> str:
    """Replace the scores of tokens for which the decoder of hotwords finds one of them."""
    sizes = graph.weights.sizes
    merged = []
    for queries in (acoustic, hidden):
        attended = _decoder(graph, "seaco_decoder", "bias_embed", queries)
        merged.append(graph.norm(attended, "seaco_decoder.after_norm"))
    found = graph.linear(graph.node("Add", *merged), "hotword_output_layer")
    found = graph.node("LogSoftmax", found, axis=-1)
    best = graph.node("ArgMax", found, axis=-1, keepdims=1)
    no_bias = NO_BIAS if sizes.vocab > NO_BIAS else sizes.vocab - 2
    is_none = graph.node("Equal", best, graph.value(np.array(no_bias, np.int64)))
    return graph.node("Where", is_none, scores, found)


def hotword_graph(weights: Weights) -> onnx.ModelProto:
    """Build the graph of SeACo's hotwords: hotword [n, 10] -> hw_embed [10, n, d_model]."""
    graph = Graph(weights)
    embedded = graph.node("Gather", graph.tensor("decoder.embed.0.weight"), "hotword")
    states = graph.node("Transpose", embedded, perm=[1, 0, 2])
    for layer in range(2):
        states = graph.lstm(states, "bias_encoder", layer, ("",), is_time_first=True)
    graph.node("Identity", states, output="hw_embed")
    shape = (10, "num_hotwords", weights.sizes.d_model)
    return graph.model({}, {"hw_embed": shape}, hotwords="hotword")
