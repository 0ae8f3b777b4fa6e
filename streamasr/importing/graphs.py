"""Writer of the audio encoder as two ONNX graphs, from the weights.

The graphs are written node by node instead of traced, so that names, shapes and dynamic axes are
exactly those below, and torch is not needed.

    front end   chunk_mel [n_chunks, n_mels, frames] -> chunk_out [n_chunks, tokens, d_model]
    back end    hidden_states [n_windows, time, d_model],
                attention_mask [n_windows, 1, time, time], additive
                -> last_hidden_state [n_windows, time, output_dim]

Matrices and convolutions are stored in a file beside the graph, `NAME.onnx.data` (ONNX: external
data). They are read, converted and written one by one, so that writing needs the memory of the
largest tensor instead of all of them (108 MB for the 0.6B model's encoder of 700 MB), loading holds
one copy less (at most 800 MB instead of 1090, in int8 230 instead of 380), and no file reaches
protobuf's limit of 2 GB. Norms, biases and constants are in the graph itself.

All arithmetic between tensors of activations is float32, and GELU is the exact one (erf). Widths:

    fp32   lossless: half precision as stored, and float16 also if it happens to represent every
           value, followed by a cast that onnxruntime folds when it loads the graph
    fp16   float16 with such a cast: half the size, rounded once if the source is more precise
    int8   linear layers of the back end in 8 bits, see quantize.py; everything else as fp32

Blocks of quantised values (Q8_0 and others) are a scale times an integer, which needs more digits
than float16 has: fp32 stores those as float32.
Source: `Qwen3ASREncoder` and `Qwen3ASRMultiModalProjector` of transformers 5.13 and later.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.importing.checkpoint import AudioDimensions, Checkpoint
from streamasr.importing.quantize import quantize_rows
from streamasr.importing.tensors import Progress, Tensor, ignore_progress

EncoderWidth = Literal["fp32", "fp16", "int8"]

OPSET: Final = 17  # the first with LayerNormalization
IR_VERSION: Final = 8  # the version of that opset; read by onnxruntime from 1.12 on

NORM_EPS: Final = 1e-5
MAX_TIMESCALE: Final = 10_000  # of the sinusoidal positions

_ALIGNMENT: Final = 4096  # bytes, a page, so that programs can map the file without copying
_ONNX_TYPES: Final[dict[str, int]] = {
    "F32": TensorProto.FLOAT,
    "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "I8": TensorProto.INT8,
}


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
    with _Graph(checkpoint, path, width, names, progress) as graph:
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
    with _Graph(checkpoint, path, width, names, progress) as graph:
        hidden = "hidden_states"
        for layer in range(audio.n_layers):
            hidden = _encoder_layer(graph, hidden, f"audio_tower.layers.{layer}.", audio)
        hidden = _normalise(graph, hidden, "audio_tower.ln_post", output="encoder_output")
        hidden = _gelu(graph, _linear(graph, hidden, "multi_modal_projector.linear_1"))
        _linear(graph, hidden, "multi_modal_projector.linear_2", output="last_hidden_state")
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


def _convolve(graph: "_Graph", hidden: str, name: str) -> str:
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
    if graph.width == "int8":
        product = _multiply_int8(graph, hidden, f"{name}.weight")
    else:
        product = graph.add("MatMul", hidden, graph.weight(f"{name}.weight", transposed=True))
    return graph.add("Add", product, graph.vector(f"{name}.bias"), output=output)


def _multiply_int8(graph: "_Graph", hidden: str, name: str) -> str:
    """Add a product of integers, in the form that onnxruntime fuses into one kernel."""
    values, scale, zero = graph.quantize(hidden)
    weight, weight_scale = graph.weight_int8(name)
    product = graph.add("MatMulInteger", values, weight, zero)
    product = graph.add("Cast", product, to=TensorProto.FLOAT)
    return graph.add("Mul", product, graph.add("Mul", scale, weight_scale))


def _normalise(graph: "_Graph", hidden: str, name: str, *, output: str | None = None) -> str:
    scale, shift = graph.vector(f"{name}.weight"), graph.vector(f"{name}.bias")
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
    """Graph under construction: nodes and small values in memory, large values on disk."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        path: Path,
        width: EncoderWidth,
        names: Sequence[str],
        progress: Progress,
    ) -> None:
        """Create the file of the weights.

        Args:
            checkpoint: source of the weights.
            path: the graph's file.
            width: type of the weights.
            names: tensors that will be used.
            progress: called after each of them.
        """
        self.width = width
        self._checkpoint = checkpoint
        self._path = path
        self._data = path.with_name(f"{path.name}.data").open("wb")
        self._progress = progress
        self._total = sum(_float32_bytes(checkpoint.tensors[name]) for name in names)
        self._done = 0
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[object, ...], str] = {}
        self._quantized: dict[str, tuple[str, str, str]] = {}
        self._initializers: dict[str, TensorProto] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._data.close()

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        output = output or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def quantize(self, hidden: str) -> tuple[str, str, str]:
        """Quantise an activation once; return the names of its values, scale and zero point."""
        if hidden not in self._quantized:
            outputs = (f"{hidden}.values", f"{hidden}.scale", f"{hidden}.zero")
            name = f"{hidden}.quantized"
            self._nodes.append(helper.make_node("DynamicQuantizeLinear", [hidden], outputs, name))
            self._quantized[hidden] = outputs
        return self._quantized[hidden]

    def constant(self, value: npt.NDArray[Any] | np.float32) -> str:
        """Add a constant and return its name; equal constants are stored once."""
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        name = self._constants.setdefault(key, f"constant_{len(self._constants)}")
        self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def vector(self, name: str) -> str:
        """Add a bias or a norm's scale as float32, in the graph itself, and return its name."""
        self._initializers[name] = numpy_helper.from_array(self._read(name), name)
        return name

    def weight(self, name: str, *, transposed: bool = False) -> str:
        """Add a tensor of the checkpoint as float32 and return its name.

        Args:
            name: the tensor's normal name.
            transposed: whether to transpose it: linear layers are stored (out, in), MatMul
                requires (in, out).
        """
        stored_type, values = self._as_stored(name)
        values = values.T if transposed else values
        if stored_type == "F32":
            return self._write(name, stored_type, values)
        half = self._write(f"{name}.{stored_type}", stored_type, values)
        return self.add("Cast", half, output=name, to=TensorProto.FLOAT)

    def weight_int8(self, name: str) -> tuple[str, str]:
        """Add a linear layer's quantised matrix; return the names of its values and scales."""
        values, scales = quantize_rows(self._read(name))
        scale = f"{name}.scale"
        self._initializers[scale] = numpy_helper.from_array(scales, scale)
        return self._write(f"{name}.I8", "I8", values.T), scale

    def close(
        self,
        inputs: dict[str, tuple[str | int, ...]],
        outputs: dict[str, tuple[str | int, ...]],
    ) -> None:
        """Write the graph; an axis is a length, or a name for a dynamic axis."""
        graph = helper.make_graph(
            self._nodes,
            "qwen3_encoder",
            [_value(name, shape) for name, shape in inputs.items()],
            [_value(name, shape) for name, shape in outputs.items()],
            list(self._initializers.values()),
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="streamasr",
        )
        self._path.write_bytes(model.SerializeToString())

    def _as_stored(self, name: str) -> tuple[str, npt.NDArray[Any]]:
        """Read a tensor in the type in which the graph stores it."""
        tensor, values = self._checkpoint.tensors[name], self._read(name)
        if self.width != "fp16" and tensor.stored_type in ("F16", "BF16"):
            return tensor.stored_type, tensor.stored()
        with np.errstate(over="ignore", under="ignore"):
            half = values.astype(np.float16)
        if self.width != "fp16":
            return ("F16", half) if np.array_equal(half, values) else ("F32", values)
        if not np.isfinite(half).all():
            raise ModelError(
                f"{tensor.path}: tensor {tensor.name} has values up to {np.abs(values).max():g}, "
                "which exceed the range of fp16; choose fp32 or int8 for the encoder",
                code="weight_exceeds_fp16",
            )
        return "F16", half

    def _read(self, name: str) -> Float32Array:
        tensor = self._checkpoint.tensors[name]
        values = tensor.float32()
        if not np.isfinite(values).all():
            raise ModelError(
                f"{tensor.path}: tensor {tensor.name} has values that are not finite",
                code="weight_not_finite",
            )
        self._done += _float32_bytes(tensor)
        self._progress(f"writing the encoder, {self.width}", self._done, self._total)
        return values

    def _write(self, name: str, stored_type: str, values: npt.NDArray[Any]) -> str:
        """Append values to the file of the weights and add a tensor that refers to them."""
        self._data.write(bytes(-self._data.tell() % _ALIGNMENT))
        tensor = TensorProto(
            name=name,
            data_type=_ONNX_TYPES[stored_type],
            dims=values.shape,
            data_location=TensorProto.EXTERNAL,
        )
        place = {
            "location": Path(self._data.name).name,
            "offset": self._data.tell(),
            "length": values.nbytes,
        }
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._data.write(np.ascontiguousarray(values).data)
        self._initializers[name] = tensor
        return name


def _float32_bytes(tensor: Tensor) -> int:
    return 4 * math.prod(tensor.shape)


def _value(name: str, shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
