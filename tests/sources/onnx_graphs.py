"""Writer of the encoder as the two graphs of the ONNX releases, in their four precisions.

    front end   chunk_mel [1, 128, 100], static -> chunk_out [1, 13, d_model]
    back end    hidden_states [batch, time, d_model],
                attention_mask [batch, 1, time, time], additive
                -> last_hidden_state [batch, time, output_dim]

The graphs are processed with the tools of the releases: onnxruntime's optimiser for transformers
(type "bert", level 1), which fuses into operators of `com.microsoft`, then its float16 converter
(inputs and outputs, too), its dynamic quantiser or its 4-bit one.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamasr.models.onnx import load_onnxruntime
from tests.sources.weights import Float32Array, Weights

Precision = Literal["fp32", "fp16", "int8", "int4"]

RECOGNISER_OPSET: Final = 19
ALIGNER_OPSET: Final = 18

_IR_VERSIONS: Final = {18: 8, 19: 9}
_EPSILON: Final = 1e-5
_FP16_RANGE: Final = (1e-7, 65504.0)
_INT4_BLOCK: Final = 128


def write_graphs(weights: Weights, frontend: Path, backend: Path, precision: Precision) -> None:
    """Write both graphs."""
    load_onnxruntime()  # disables onnxruntime's telemetry
    opset = RECOGNISER_OPSET if weights.shape.n_classes is None else ALIGNER_OPSET
    for path, model in (
        (frontend, _frontend(weights, opset)),
        (backend, _backend(weights, opset)),
    ):
        onnx.save(model, path)
        del model
        _optimise(path)
        _narrow(path, precision)


def _frontend(weights: Weights, opset: int) -> onnx.ModelProto:
    """Build the convolutions, the projection and the positions of one chunk."""
    shape = weights.shape
    n_frames = 2 * shape.n_window
    n_tokens = -(-n_frames // 8)
    n_bands = -(-shape.n_mels // 8)
    graph = _Graph(weights)
    hidden = graph.node("Unsqueeze", "chunk_mel", graph.value(np.array([1], np.int64)))
    for number in (1, 2, 3):
        name = f"audio_tower.conv2d{number}"
        kernel, bias = graph.weight(f"{name}.weight"), graph.weight(f"{name}.bias")
        hidden = graph.node(
            "Conv",
            hidden,
            kernel,
            bias,
            dilations=[1, 1],
            group=1,
            pads=[1, 1, 1, 1],
            strides=[2, 2],
        )
        hidden = graph.gelu(hidden)
    hidden = graph.node("Transpose", hidden, perm=[0, 3, 1, 2])
    flat = np.array([1, n_tokens, shape.channels * n_bands], np.int64)
    hidden = graph.node("Reshape", hidden, graph.value(flat))
    hidden = graph.node(
        "MatMul", hidden, graph.weight("audio_tower.conv_out.weight", transposed=True)
    )
    graph.node("Add", hidden, graph.value(_positions(n_tokens, shape.d_model)), to="chunk_out")
    return graph.model(
        {"chunk_mel": (1, shape.n_mels, n_frames)},
        {"chunk_out": (1, n_tokens, shape.d_model)},
        opset,
    )


def _backend(weights: Weights, opset: int) -> onnx.ModelProto:
    """Build the transformer and the projector."""
    shape = weights.shape
    graph = _Graph(weights)
    hidden = "hidden_states"
    for layer in range(shape.encoder_layers):
        prefix = f"audio_tower.layers.{layer}"
        normed = graph.normed(hidden, f"{prefix}.self_attn_layer_norm")
        hidden = graph.node("Add", hidden, _attention(graph, normed, f"{prefix}.self_attn"))
        normed = graph.normed(hidden, f"{prefix}.final_layer_norm")
        wide = graph.gelu(graph.linear(normed, f"{prefix}.fc1"))
        hidden = graph.node("Add", hidden, graph.linear(wide, f"{prefix}.fc2"))
    hidden = graph.normed(hidden, "audio_tower.ln_post")
    hidden = graph.gelu(graph.linear(hidden, "multi_modal_projector.linear_1"))
    graph.linear(hidden, "multi_modal_projector.linear_2", to="last_hidden_state")
    return graph.model(
        {
            "hidden_states": ("batch", "time", shape.d_model),
            "attention_mask": ("batch", 1, "time", "time"),
        },
        {"last_hidden_state": ("batch", "time", shape.hidden)},
        opset,
    )


def _attention(graph: "_Graph", hidden: str, name: str) -> str:
    shape = graph.weights.shape
    head_dim = shape.d_model // shape.encoder_heads
    heads = graph.value(np.array([0, 0, shape.encoder_heads, head_dim], np.int64))

    def split(part: str, axes: Sequence[int]) -> str:
        divided = graph.node("Reshape", graph.linear(hidden, f"{name}.{part}_proj"), heads)
        return graph.node("Transpose", divided, perm=axes)

    scale = graph.value(np.float32(head_dim**-0.5))
    scores = graph.node("MatMul", split("q", [0, 2, 1, 3]), split("k", [0, 2, 3, 1]))
    scores = graph.node("Add", graph.node("Mul", scores, scale), "attention_mask")
    mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), split("v", [0, 2, 1, 3]))
    joined = graph.node("Transpose", mixed, perm=[0, 2, 1, 3])
    width = graph.value(np.array([0, 0, shape.d_model], np.int64))
    return graph.linear(graph.node("Reshape", joined, width), f"{name}.out_proj")


def _positions(length: int, width: int) -> Float32Array:
    half = width // 2
    rates = np.exp(-np.log(10_000) / (half - 1) * np.arange(half))
    angles = np.arange(length)[:, None] * rates[None]
    return np.hstack([np.sin(angles), np.cos(angles)]).astype(np.float32)


class _Graph:
    """Graph under construction, node by node."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._values: list[TensorProto] = []

    def node(self, kind: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        name = f"node_{kind}_{len(self._nodes)}"
        to = to or f"val_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [to], name, **attributes))
        return to

    def value(self, value: npt.NDArray[Any] | np.float32) -> str:
        name = f"const_{len(self._values)}"
        self._values.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, name: str, *, transposed: bool = False) -> str:
        values = self.weights.read(name)
        stored = np.ascontiguousarray(values.T) if transposed else values
        self._values.append(numpy_helper.from_array(stored, name))
        return name

    def linear(self, hidden: str, name: str, to: str | None = None) -> str:
        product = self.node("MatMul", hidden, self.weight(f"{name}.weight", transposed=True))
        return self.node("Add", product, self.weight(f"{name}.bias"), to=to)

    def normed(self, hidden: str, name: str) -> str:
        scale, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node(
            "LayerNormalization", hidden, scale, shift, axis=-1, epsilon=_EPSILON, stash_type=1
        )

    def gelu(self, hidden: str) -> str:
        divided = self.node("Div", hidden, self.value(np.float32(np.sqrt(2))))
        risen = self.node("Add", self.node("Erf", divided), self.value(np.float32(1)))
        return self.node("Mul", self.node("Mul", hidden, risen), self.value(np.float32(0.5)))

    def model(
        self,
        inputs: dict[str, tuple[str | int, ...]],
        outputs: dict[str, tuple[str | int, ...]],
        opset: int,
    ) -> onnx.ModelProto:
        def describe(values: dict[str, tuple[str | int, ...]]) -> list[onnx.ValueInfoProto]:
            kind = TensorProto.FLOAT
            return [helper.make_tensor_value_info(n, kind, size) for n, size in values.items()]

        graph = helper.make_graph(
            self._nodes, "main_graph", describe(inputs), describe(outputs), self._values
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=_IR_VERSIONS[opset],
            producer_name="pytorch",
        )


def _optimise(path: Path) -> None:
    """Fuse nodes for which onnxruntime has special kernels, in place.

    The optimisations of level 1 are applied first; the optimiser itself needs torch for them.
    """
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    InferenceSession(path, options, providers=["CPUExecutionProvider"])
    model = optimize_model(str(path), "bert", num_heads=0, hidden_size=0, opt_level=0)
    model.save_model_to_file(str(path))


def _narrow(path: Path, precision: Precision) -> None:
    match precision:
        case "fp16":
            _to_float16(path)
        case "int8":
            _to_int8(path)
        case "int4":
            _to_int4(path)


def _to_float16(path: Path) -> None:
    from onnxruntime.transformers.float16 import (
        DEFAULT_OP_BLOCK_LIST,
        convert_float_to_float16,
    )

    smallest, largest = _FP16_RANGE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for every weight that it truncates
        model = convert_float_to_float16(
            onnx.load(path),
            min_positive_val=smallest,
            max_finite_val=largest,
            keep_io_types=False,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, "LayerNormalization", "Softmax"],
        )
    onnx.save(model, path)


def _to_int8(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        path,
        path,
        op_types_to_quantize=["MatMul", "Attention", "Conv"],
        per_channel=True,
        weight_type=QuantType.QUInt8,
        # The quantiser does not know the output type of the optimiser's fused operators.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


def _to_int4(path: Path) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.getLogger().setLevel(logging.WARNING)  # the module enables all logging when imported
    quantizer = MatMulNBitsQuantizer(
        onnx.load(path), bits=4, block_size=_INT4_BLOCK, is_symmetric=False, accuracy_level=None
    )
    quantizer.process()
    onnx.save(quantizer.model.model, path)
