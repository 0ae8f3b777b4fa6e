"""Writer of ONNX graphs node by node, with the weights in a file beside the graph.

Graphs are written instead of traced, so that names, shapes and dynamic axes are exactly the
intended ones, and torch is not needed.

Matrices and convolutions are stored in a file beside the graph, `NAME.onnx.data` (ONNX: external
data). They are read, converted and written one by one, so that writing needs the memory of the
largest tensor instead of all of them (108 MB for the encoder of Qwen3-ASR-0.6B of 700 MB), loading
holds one copy less (at most 800 MB instead of 1090, in int8 230 instead of 380), and no file
reaches protobuf's limit of 2 GB. Norms, biases and constants are in the graph itself.

All arithmetic between tensors of activations is float32. Widths:

    fp32   lossless: half precision as stored, and float16 also if it happens to represent every
           value, followed by a cast that onnxruntime folds when it loads the graph
    fp16   float16 with such a cast: half the size, rounded once if the source is more precise
    int8   linear layers in 8 bits, see quantize.py; everything else as fp32

Blocks of quantised values (Q8_0 and others) are a scale times an integer, which needs more digits
than float16 has: fp32 stores those as float32.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.importing.options import EncoderWidth
from streamasr.importing.quantize import quantize_rows
from streamasr.importing.tensors import Progress, Tensor

OPSET: Final = 17  # the first with LayerNormalization
IR_VERSION: Final = 8  # the version of that opset; read by onnxruntime from 1.12 on

FLOAT: Final[int] = TensorProto.FLOAT
"""Value of the attribute `to` of a cast."""

_PIECE: Final = 1 << 22  # values
_ALIGNMENT: Final = 4096  # bytes, a page, so that programs can map the file without copying
_ONNX_TYPES: Final[dict[str, int]] = {
    "F32": TensorProto.FLOAT,
    "F16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "I8": TensorProto.INT8,
}


class GraphWriter:
    """Graph under construction: nodes and small values in memory, large values on disk."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        path: Path,
        width: EncoderWidth,
        names: Sequence[str],
        *,
        progress: Progress,
        part: str = "encoder",
    ) -> None:
        """Create the file of the weights.

        Args:
            tensors: source of the weights, by normal name.
            path: the graph's file.
            width: type of the weights.
            names: tensors that will be used.
            progress: called after each of them.
            part: the model's part that the graph computes, for the progress.
        """
        self._step = f"writing the {part}, {width}"
        self.width = width
        self._tensors = tensors
        self._path = path
        self._data = path.with_name(f"{path.name}.data").open("wb")
        self._progress = progress
        self._total = sum(_float32_bytes(tensors[name]) for name in names)
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

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor of the checkpoint."""
        return self._tensors[name].shape

    def split(self, hidden: str, count: int) -> list[str]:
        """Split the last axis into equal parts and return their names."""
        outputs = [f"Split_{len(self._nodes)}.{number}" for number in range(count)]
        self._nodes.append(helper.make_node("Split", [hidden], outputs, outputs[0], axis=-1))
        return outputs

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
        self._initializers[name] = numpy_helper.from_array(self.read(name), name)
        return name

    def weight(
        self, name: str, *, transposed: bool = False, shape: Sequence[int] | None = None
    ) -> str:
        """Add a tensor of the checkpoint as float32 and return its name.

        Args:
            name: the tensor's normal name.
            transposed: whether to transpose it: linear layers are stored (out, in), MatMul
                requires (in, out).
            shape: shape in the graph, if it differs.
        """
        stored_type, values = self._as_stored(name)
        values = values.T if transposed else values
        return self._widened(name, stored_type, values if shape is None else values.reshape(shape))

    def composed_weight(
        self, name: str, parts: Sequence[str], compose: Callable[..., Float32Array]
    ) -> str:
        """Add a matrix made of several tensors, or of one in another order; return its name.

        Args:
            name: name of the matrix.
            parts: normal names of the tensors.
            compose: function of their float32 values.
        """
        values = compose(*(self.read(part) for part in parts))
        first = self._tensors[parts[0]]
        return self._widened(name, *self._narrowed(first, values))

    def composed_vector(
        self, name: str, parts: Sequence[str], compose: Callable[..., Float32Array]
    ) -> str:
        """Add float32 values made of several tensors, in the graph itself; return their name."""
        values = compose(*(self.read(part) for part in parts))
        self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def _widened(self, name: str, stored_type: str, values: npt.NDArray[Any]) -> str:
        """Store values; return the name of the same in float32."""
        if stored_type == "F32":
            return self._write(name, stored_type, values)
        half = self._write(f"{name}.{stored_type}", stored_type, values)
        return self.add("Cast", half, output=name, to=TensorProto.FLOAT)

    def weight_int8(self, name: str) -> tuple[str, str]:
        """Add a linear layer's quantised matrix; return the names of its values and scales."""
        values, scales = quantize_rows(self.read(name))
        scale = f"{name}.scale"
        self._initializers[scale] = numpy_helper.from_array(scales, scale)
        return self._write(f"{name}.I8", "I8", values.T), scale

    def close(
        self,
        inputs: dict[str, tuple[str | int, ...]],
        outputs: dict[str, tuple[str | int, ...]],
        *,
        integers: Collection[str] = (),
    ) -> None:
        """Write the graph; an axis is a length, or a name for a dynamic axis.

        Args:
            inputs: the axes of each.
            outputs: the axes of each.
            integers: names of the inputs that are int32; all others are float32.
        """
        graph = helper.make_graph(
            self._nodes,
            self._path.stem,
            [
                _value(name, shape, TensorProto.INT32 if name in integers else TensorProto.FLOAT)
                for name, shape in inputs.items()
            ],
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
        tensor, values = self._tensors[name], self.read(name)
        if self.width != "fp16" and tensor.stored_type in ("F16", "BF16"):
            return tensor.stored_type, tensor.stored()
        return self._narrowed(tensor, values)

    def _narrowed(self, tensor: Tensor, values: Float32Array) -> tuple[str, npt.NDArray[Any]]:
        """Return values in the narrowest type that the width allows."""
        if self.width != "fp16" and not all(map(_is_half, _pieces(values))):
            return "F32", values
        with np.errstate(over="ignore", under="ignore"):
            half = values.astype(np.float16)
        if not all(np.isfinite(piece).all() for piece in _pieces(half)):
            raise ModelError(
                f"{tensor.path}: tensor {tensor.name} has values up to {np.abs(values).max():g}, "
                "which exceed the range of fp16; choose fp32 or int8 for the encoder",
                code="weight_exceeds_fp16",
            )
        return "F16", half

    def read(self, name: str) -> Float32Array:
        """Read a tensor of the checkpoint, which must be used.

        Raises:
            ModelError: a value is not finite.
        """
        tensor = self._tensors[name]
        values = tensor.float32()
        if not all(np.isfinite(piece).all() for piece in _pieces(values)):
            raise ModelError(
                f"{tensor.path}: tensor {tensor.name} has values that are not finite",
                code="weight_not_finite",
            )
        self._done += _float32_bytes(tensor)
        self._progress(self._step, self._done, self._total)
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


def _pieces(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield some rows at a time: a vocabulary takes a gigabyte, and so would each copy of it."""
    values = np.atleast_1d(values)
    step = max(1, _PIECE // max(1, math.prod(values.shape[1:])))
    return (values[first : first + step] for first in range(0, len(values), step))


def _is_half(values: Float32Array) -> bool:
    """Return whether values are exact in float16."""
    with np.errstate(over="ignore", under="ignore"):
        return np.array_equal(values.astype(np.float16), values)


def _float32_bytes(tensor: Tensor) -> int:
    return 4 * math.prod(tensor.shape)


def _value(
    name: str, shape: Sequence[str | int], kind: int = TensorProto.FLOAT
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def linear(
    graph: GraphWriter,
    hidden: str,
    name: str,
    *,
    output: str | None = None,
    has_bias: bool = True,
    is_exact: bool = False,
) -> str:
    """Add a linear layer with the tensors `NAME.weight` (out, in) and `NAME.bias`.

    Args:
        graph: destination.
        hidden: name of the input.
        name: name of the layer.
        output: name for the output.
        has_bias: whether there is a bias.
        is_exact: whether int8 shall leave the layer in float32.
    """
    if graph.width == "int8" and not is_exact:
        product = _multiply_int8(graph, hidden, f"{name}.weight")
    else:
        product = graph.add("MatMul", hidden, graph.weight(f"{name}.weight", transposed=True))
    if not has_bias:
        return product
    return graph.add("Add", product, graph.vector(f"{name}.bias"), output=output)


def _multiply_int8(graph: GraphWriter, hidden: str, name: str) -> str:
    """Add a product of integers, in the form that onnxruntime fuses into one kernel."""
    values, scale, zero = graph.quantize(hidden)
    weight, weight_scale = graph.weight_int8(name)
    product = graph.add("MatMulInteger", values, weight, zero)
    product = graph.add("Cast", product, to=TensorProto.FLOAT)
    return graph.add("Mul", product, graph.add("Mul", scale, weight_scale))


def normalise(
    graph: GraphWriter, hidden: str, name: str, eps: float, *, output: str | None = None
) -> str:
    """Add a LayerNorm over the last axis, with the tensors `NAME.weight` and `NAME.bias`."""
    scale, shift = graph.vector(f"{name}.weight"), graph.vector(f"{name}.bias")
    return graph.add(
        "LayerNormalization", hidden, scale, shift, output=output, axis=-1, epsilon=eps
    )
