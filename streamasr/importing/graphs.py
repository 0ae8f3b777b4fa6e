"""The audio encoder as two ONNX graphs, built from the weights.

Nothing is traced: the graphs are written node by node, so that names, shapes and free
axes are exactly what the contract says, and no torch is needed.

    front end   chunk_mel [n_chunks, n_mels, frames] -> chunk_out [n_chunks, tokens, d_model]
    back end    hidden_states [n_windows, time, d_model],
                attention_mask [n_windows, 1, time, time], additive
                -> last_hidden_state [n_windows, time, output_dim]

All arithmetic is float32 and GELU is the exact one (erf). Weights of a half precision
checkpoint are stored as they are, with a cast behind each: the file is half the size
and nothing is lost, and onnxruntime folds the casts when it loads the graph.
Source: `Qwen3ASREncoder` and `Qwen3ASRMultiModalProjector` of transformers 5.13 and later.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamasr.importing.checkpoint import AudioDimensions, Checkpoint
from streamasr.units import Float32Array

OPSET: Final = 17  # the first with LayerNormalization
IR_VERSION: Final = 8  # what belongs to that opset; onnxruntime from 1.12 on reads it

NORM_EPS: Final = 1e-5
MAX_TIMESCALE: Final = 10_000  # of the sinusoidal positions

_ONNX_TYPES: Final[dict[str, int]] = {
    "F32": TensorProto.FLOAT,
    "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
}


def build_frontend(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Build the graph of the convolutions and positions."""
    audio = checkpoint.audio
    graph = _Graph(checkpoint, keep_half=True)
    hidden = graph.add("Unsqueeze", "chunk_mel", graph.constant(np.array([1])))
    for number in (1, 2, 3):
        hidden = _convolve(graph, hidden, f"audio_tower.conv2d{number}")
    # (chunks, channels, mels, time) -> (chunks, time, channels * mels)
    hidden = graph.add("Transpose", hidden, perm=[0, 3, 1, 2])
    width = audio.channels * audio.convolved_mels
    hidden = graph.add("Reshape", hidden, graph.constant(np.array([0, 0, width])))
    hidden = graph.add("MatMul", hidden, graph.weight("audio_tower.conv_out.weight", turned=True))
    positions = sinusoids(audio.chunk_tokens, audio.d_model)
    graph.add("Add", hidden, graph.constant(positions), output="chunk_out")
    return graph.model(
        inputs={"chunk_mel": ("n_chunks", audio.n_mels, audio.chunk_frames)},
        outputs={"chunk_out": ("n_chunks", audio.chunk_tokens, audio.d_model)},
    )


def build_backend(checkpoint: Checkpoint, *, keep_half: bool = True) -> onnx.ModelProto:
    """Build the graph of the transformer and the projection into the LLM.

    Args:
        checkpoint: where the weights come from.
        keep_half: store half precision weights as they are; False widens them, as the
            quantiser needs it.
    """
    audio = checkpoint.audio
    graph = _Graph(checkpoint, keep_half=keep_half)
    hidden = "hidden_states"
    for layer in range(audio.n_layers):
        hidden = _encoder_layer(graph, hidden, f"audio_tower.layers.{layer}.", audio)
    hidden = _normalise(graph, hidden, "audio_tower.ln_post", output="encoder_output")
    hidden = _gelu(graph, _linear(graph, hidden, "multi_modal_projector.linear_1"))
    _linear(graph, hidden, "multi_modal_projector.linear_2", output="last_hidden_state")
    return graph.model(
        inputs={
            "hidden_states": ("n_windows", "time", audio.d_model),
            "attention_mask": ("n_windows", 1, "time", "time"),
        },
        outputs={"last_hidden_state": ("n_windows", "time", audio.output_dim)},
    )


def sinusoids(length: int, width: int) -> Float32Array:
    """Compute position rows: sines in the first half of the columns, cosines in the second."""
    half = width // 2
    # A width of 2 would divide by zero, in the reference too.
    step = np.float32(math.log(MAX_TIMESCALE) / (half - 1))
    inverse_timescales = np.exp(-step * np.arange(half, dtype=np.float32))
    angles = np.arange(length, dtype=np.float32)[:, None] * inverse_timescales
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _convolve(graph: "_Graph", hidden: str, name: str) -> str:
    hidden = graph.add(
        "Conv",
        hidden,
        graph.weight(f"{name}.weight"),
        graph.weight(f"{name}.bias"),
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
    )
    return _gelu(graph, hidden)


def _encoder_layer(graph: "_Graph", hidden: str, prefix: str, audio: AudioDimensions) -> str:
    """Add one pre-norm layer: attention, then the feed-forward part, each with its residual."""
    normed = _normalise(graph, hidden, f"{prefix}self_attn_layer_norm")
    attended = _attention(graph, normed, f"{prefix}self_attn.", audio)
    hidden = graph.add("Add", hidden, attended)
    normed = _normalise(graph, hidden, f"{prefix}final_layer_norm")
    wide = _gelu(graph, _linear(graph, normed, f"{prefix}fc1"))
    return graph.add("Add", hidden, _linear(graph, wide, f"{prefix}fc2"))


def _attention(graph: "_Graph", hidden: str, prefix: str, audio: AudioDimensions) -> str:
    head_dim = audio.d_model // audio.n_heads

    def heads(name: str, axes: Sequence[int]) -> str:
        split = graph.constant(np.array([0, 0, audio.n_heads, head_dim]))
        projected = graph.add("Reshape", _linear(graph, hidden, prefix + name), split)
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
    return _linear(graph, joined, f"{prefix}out_proj")


def _linear(graph: "_Graph", hidden: str, name: str, *, output: str | None = None) -> str:
    product = graph.add("MatMul", hidden, graph.weight(f"{name}.weight", turned=True))
    return graph.add("Add", product, graph.weight(f"{name}.bias"), output=output)


def _normalise(graph: "_Graph", hidden: str, name: str, *, output: str | None = None) -> str:
    scale, shift = graph.weight(f"{name}.weight"), graph.weight(f"{name}.bias")
    return graph.add(
        "LayerNormalization", hidden, scale, shift, output=output, axis=-1, epsilon=NORM_EPS
    )


def _gelu(graph: "_Graph", hidden: str) -> str:
    """Add x / 2 * (1 + erf(x / sqrt 2)), in the form that onnxruntime fuses into one kernel."""
    scaled = graph.add("Div", hidden, graph.constant(np.float32(math.sqrt(2))))
    erf = graph.add("Add", graph.add("Erf", scaled), graph.constant(np.float32(1)))
    product = graph.add("Mul", hidden, erf)
    return graph.add("Mul", product, graph.constant(np.float32(0.5)))


class _Graph:
    """Nodes and initialisers as they are added; values are known by their names."""

    def __init__(self, checkpoint: Checkpoint, *, keep_half: bool) -> None:
        self._checkpoint = checkpoint
        self._keep_half = keep_half
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[object, ...], str] = {}
        self._initializers: dict[str, TensorProto] = {}

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        output = output or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def constant(self, value: npt.NDArray[Any] | np.float32) -> str:
        """Add a constant and return its name; equal constants are stored once."""
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        name = self._constants.setdefault(key, f"constant_{len(self._constants)}")
        self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def weight(self, name: str, *, turned: bool = False) -> str:
        """Add a tensor of the checkpoint as float32 and return its name.

        Args:
            name: the tensor's normal name.
            turned: transpose it: linear layers are stored (out, in), MatMul wants (in, out).
        """
        tensor = self._checkpoint.tensors[name]
        as_stored = self._keep_half and tensor.stored_type in ("F16", "BF16")
        values = tensor.stored() if as_stored else tensor.float32()
        stored_type = tensor.stored_type if as_stored else "F32"
        stored_name = f"{name}.{stored_type}" if as_stored else name
        self._initializers[stored_name] = _initializer(
            stored_name, values.T if turned else values, stored_type
        )
        if not as_stored:
            return name
        return self.add("Cast", stored_name, output=name, to=TensorProto.FLOAT)

    def model(
        self,
        inputs: dict[str, tuple[str | int, ...]],
        outputs: dict[str, tuple[str | int, ...]],
    ) -> onnx.ModelProto:
        """Close the graph; axes are lengths, or names where any length goes."""
        graph = helper.make_graph(
            self._nodes,
            "qwen3_encoder",
            [_value(name, shape) for name, shape in inputs.items()],
            [_value(name, shape) for name, shape in outputs.items()],
            list(self._initializers.values()),
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="streamasr",
        )


def _value(name: str, shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _initializer(name: str, values: npt.NDArray[Any], stored_type: str) -> TensorProto:
    return helper.make_tensor(
        name,
        _ONNX_TYPES[stored_type],
        values.shape,
        np.ascontiguousarray(values).tobytes(),
        raw=True,
    )
