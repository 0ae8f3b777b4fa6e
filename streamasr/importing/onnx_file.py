"""Reader for the inputs, outputs and precision of an ONNX graph, without its weights.

A graph is one protobuf message that contains the weights, and the package `onnx` always reads the
whole message: hundreds of megabytes for the names of two inputs. Here `onnx_message.py` iterates
over the fields of the file and skips large ones; `onnx` then parses the inputs and outputs.

Source: `onnx.proto` of https://github.com/onnx/onnx.
"""

import contextlib
import mmap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto

from streamasr.core.errors import ModelError
from streamasr.importing.onnx_message import BYTES, VARINT, Message

# Numbers of the fields that are read.
_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA, _MODEL_FUNCTION = 1, 7, 8, 14, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_FUNCTION_NODE: Final = 7
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_TENSOR: Final = 5
_TENSOR_AXES, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL = 1, 2, 8, 13
_TENSOR_VALUES: Final = frozenset({4, 5, 6, 7, 9, 10, 11})  # one for each type of number

_INTEGER_OPERATORS: Final = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "QAttention",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)
_KEEP_WIDTH: Final = frozenset({"Add", "Cast", "Clip", "Identity", "Mul"})
"""Operators after a matrix product, such as the bias, that do not change the last axis."""
_WIDEN: Final = frozenset({"Cast", "DequantizeLinear", "Identity"})
_MAX_STEPS: Final = 16  # from an output back to its matrix

_BLOCKS: Final = "MatMulNBits"
_BLOCK_BITS: Final = 4  # default of the operator
_HALF: Final = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_BYTE: Final = frozenset({TensorProto.INT8, TensorProto.UINT8})
_NIBBLE: Final = frozenset({TensorProto.INT4, TensorProto.UINT4})


@dataclass(frozen=True, slots=True)
class Value:
    """Input or output of a graph."""

    dtype: str
    """ONNX's name of the type: `FLOAT`, `FLOAT16`."""
    shape: tuple[int | None, ...]
    """Lengths of the axes; None for a dynamic or unknown length."""


@dataclass(frozen=True, slots=True)
class GraphInfo:
    """Description of a graph without its weights."""

    path: Path
    inputs: Mapping[str, Value]
    """Inputs without the initialisers, which old graphs list among them."""
    outputs: Mapping[str, Value]
    """Outputs; a last axis that the graph does not state is that of the weights before it."""
    opset: int
    """Version of ONNX's own operators."""
    operators: frozenset[str]
    initializer_bytes: int
    """Size of the weights, in the file or beside it."""
    bits: int
    """Smallest number of bits of a weight, attention and convolutions excluded."""
    data_files: tuple[Path, ...]
    """Files beside the graph that contain weights."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Entries of `metadata_props`; entries of more than `_MAX_METADATA_BYTES` are left out."""

    @property
    def precision(self) -> str:
        """Name of the precision: `fp32`, `fp16`, `int8`, `int4`."""
        return f"{'fp' if self.bits >= 16 else 'int'}{self.bits}"


_MAX_NAME_BYTES: Final = 255  # of a file, in common file systems
_MAX_METADATA_BYTES: Final = 1 << 16
_MAX_LONG_METADATA_BYTES: Final = 1 << 26
"""A vocabulary of 471,067 words takes 6 MB."""

_SECOND_FIELDS: Final = frozenset(b"\x12\x1a\x22\x28\x32\x3a\x42")
"""Tags that may follow a model's IR version: producer, model version, graph, opsets."""


def is_graph(path: Path) -> bool:
    """Return whether a file begins like an ONNX graph, or has the suffix `.onnx`.

    ONNX has no magic number, but a model begins with its IR version, a small number, and only a few
    fields can follow.

    Raises:
        ModelError: the file cannot be read.
    """
    if not path.is_file():
        return False
    if path.suffix.lower() == ".onnx":
        return True
    try:
        with path.open("rb") as file:
            head = file.read(3)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}.", code="file_unreadable"
        ) from error
    return len(head) == 3 and head[0] == 0x08 and 0 < head[1] < 32 and head[2] in _SECOND_FIELDS


def read_graph(path: Path) -> GraphInfo:
    """Read a graph's inputs, outputs and precision; its weights stay on disk.

    Raises:
        ModelError: the file is missing, cut short, damaged, or not an ONNX graph.
    """
    with _mapped(path) as message:
        return _read(message)


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[Message]:
    """Map a file as one message."""
    if not path.is_file():
        raise ModelError(f"{path} does not exist, or is not a regular file.", code="file_missing")
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise ModelError(f"{path} is empty; download it again.", code="file_empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield Message(data, path)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}.", code="file_unreadable"
        ) from error


def read_long_metadata(path: Path, name: str) -> str | None:
    """Return an entry of a graph's `metadata_props`, of any length that a vocabulary has.

    Returns:
        None if there is no such entry.

    Raises:
        ModelError: the file is damaged, or the entry is longer than `_MAX_LONG_METADATA_BYTES`.
    """
    with _mapped(path) as message:
        for number, wire_type, begin, end in message.fields(0, message.size):
            if number == _MODEL_METADATA and wire_type == BYTES:
                key, value = _entry(message, begin, end)
                if key == name:
                    return message.long_text(*value, _MAX_LONG_METADATA_BYTES)
    return None


def _entry(message: Message, begin: int, end: int) -> tuple[str, tuple[int, int]]:
    """Return the key of an entry, and the place of its value."""
    key, value = "", (begin, begin)
    for number, wire_type, start, stop in message.fields(begin, end):
        if number == _ENTRY_KEY and wire_type == BYTES:
            key = message.text(start, stop)
        elif number == _ENTRY_VALUE and wire_type == BYTES:
            value = start, stop
    return key, value


@dataclass(slots=True)
class _Found:
    """Contents of the message as read so far."""

    inputs: dict[str, Value] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)
    operators: set[str] = field(default_factory=set)
    block_bits: set[int] = field(default_factory=set)
    """Of weights in blocks."""
    bytes_of: Counter[int] = field(default_factory=Counter)
    """Bytes of weights by their type."""
    weights: set[str] = field(default_factory=set)
    """Names of the weights."""
    ends: dict[str, int] = field(default_factory=dict)
    """Files with weights, and the number of bytes that each must have."""
    metadata: dict[str, str] = field(default_factory=dict)


def _read(message: Message) -> GraphInfo:
    found, opset, graph, has_version = _Found(), 0, None, False
    for number, wire_type, begin, end in message.fields(0, message.size):
        if number == _MODEL_IR_VERSION:
            has_version = wire_type == VARINT
        elif number == _MODEL_OPSET and wire_type == BYTES:
            opset = opset or _own_opset(message, begin, end)
        elif number == _MODEL_FUNCTION and wire_type == BYTES:
            _read_function(message, begin, end, found)
        elif number == _MODEL_METADATA and wire_type == BYTES:
            _read_metadata(message, begin, end, found)
        elif number == _MODEL_GRAPH:
            if wire_type != BYTES or graph is not None:
                raise message.broken()
            graph = begin, end
    if graph is None or not has_version or not opset:
        raise message.broken()
    _read_graph(message, *graph, found)
    if any(value.shape and value.shape[-1] is None for value in found.outputs.values()):
        _infer_widths(message, *graph, found)
    return GraphInfo(
        path=message.path,
        inputs={name: v for name, v in found.inputs.items() if name not in found.weights},
        outputs=found.outputs,
        opset=opset,
        operators=frozenset(found.operators),
        initializer_bytes=found.bytes_of.total(),
        bits=_bits(found),
        data_files=tuple(_data_files(message.path, found.ends)),
        metadata=found.metadata,
    )


def _read_metadata(message: Message, begin: int, end: int, found: _Found) -> None:
    if end - begin <= _MAX_METADATA_BYTES:
        key, value = _entry(message, begin, end)
        found.metadata.setdefault(key, message.text(*value))


def _own_opset(message: Message, begin: int, end: int) -> int:
    """Return the version in an entry for ONNX's own operators; 0 for any other entry."""
    entry = _parse(message, onnx.OperatorSetIdProto, begin, end)
    return int(entry.version) if entry.domain in {"", "ai.onnx"} else 0


def _read_graph(message: Message, begin: int, end: int, found: _Found) -> None:
    for number, wire_type, start, stop in message.fields(begin, end):
        if number not in {_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT}:
            continue
        if wire_type != BYTES:
            raise message.broken()
        if number == _GRAPH_NODE:
            _read_node(message, start, stop, found)
        elif number == _GRAPH_INITIALIZER:
            _read_tensor(message, start, stop, found)
        else:
            values = found.inputs if number == _GRAPH_INPUT else found.outputs
            name, value = _value(message, start, stop)
            if name in values:
                raise message.broken()
            values[name] = value


def _read_function(message: Message, begin: int, end: int, found: _Found) -> None:
    for number, wire_type, start, stop in message.fields(begin, end):
        if (number, wire_type) == (_FUNCTION_NODE, BYTES):
            _read_node(message, start, stop, found)


def _read_node(message: Message, begin: int, end: int, found: _Found) -> None:
    """Record an operator, and the weights that some exporters store in `Constant` nodes."""
    operator, attributes = "", []
    for number, wire_type, start, stop in message.fields(begin, end):
        if number == _NODE_OPERATOR and wire_type == BYTES:
            operator = message.text(start, stop)
        elif number == _NODE_ATTRIBUTE and wire_type == BYTES:
            attributes.append((start, stop))
    found.operators.add(operator)
    if operator == _BLOCKS:
        found.block_bits.add(_block_bits(message, attributes))
    if operator == "Constant":
        for attribute in attributes:
            for number, wire_type, start, stop in message.fields(*attribute):
                if (number, wire_type) == (_ATTRIBUTE_TENSOR, BYTES):
                    _read_tensor(message, start, stop, found)


def _block_bits(message: Message, attributes: list[tuple[int, int]]) -> int:
    for begin, end in attributes:
        attribute = _parse(message, onnx.AttributeProto, begin, end)
        if attribute.name == "bits":
            return int(attribute.i)
    return _BLOCK_BITS


def _read_tensor(message: Message, begin: int, end: int, found: _Found) -> None:
    """Record the type, size and location of a weight."""
    data_type, n_bytes, location = 0, 0, {}
    for number, wire_type, start, stop in message.fields(begin, end):
        if number == _TENSOR_TYPE and wire_type == VARINT:
            data_type = start
        elif number == _TENSOR_NAME and wire_type == BYTES:
            found.weights.add(message.text(start, stop))
        elif number in _TENSOR_VALUES and wire_type == BYTES:
            n_bytes += stop - start
        elif number == _TENSOR_EXTERNAL and wire_type == BYTES:
            key, value = _entry(message, start, stop)
            location[key] = message.text(*value)
    if "location" in location:
        n_bytes += _record_external(message, location, found)
    found.bytes_of[data_type] += n_bytes


def _record_external(message: Message, location: Mapping[str, str], found: _Found) -> int:
    """Record the required size of a file with external weights; return the weight's bytes."""
    name = location["location"]
    try:
        offset, length = int(location.get("offset", "0")), int(location.get("length", "0"))
    except ValueError as error:
        raise message.broken() from error
    if offset < 0 or length < 0:
        raise message.broken()
    found.ends[name] = max(found.ends.get(name, 0), offset + length)
    return length


_Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Node:
    operator: str
    inputs: Sequence[str]


def _infer_widths(message: Message, begin: int, end: int, found: _Found) -> None:
    """Infer the unstated last axes of outputs from the weights that produce them."""
    producers: dict[str, _Node] = {}
    shapes: _Shapes = {}
    for number, wire_type, start, stop in message.fields(begin, end):
        if (number, wire_type) == (_GRAPH_NODE, BYTES):
            _record_producer(message, start, stop, producers)
        elif (number, wire_type) == (_GRAPH_INITIALIZER, BYTES):
            name, shape = _name_and_shape(message, start, stop)
            shapes[name] = shape
    for name, value in found.outputs.items():
        if value.shape and value.shape[-1] is None:
            width = _width(name, producers, shapes)
            found.outputs[name] = replace(value, shape=(*value.shape[:-1], width))


def _record_producer(message: Message, begin: int, end: int, producers: dict[str, _Node]) -> None:
    operator = ""
    inputs: list[str] = []
    outputs: list[str] = []
    for number, wire_type, start, stop in message.fields(begin, end):
        if number in {_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR} and wire_type == BYTES:
            text = message.text(start, stop)
            if number == _NODE_OPERATOR:
                operator = text
            else:
                (inputs if number == _NODE_INPUT else outputs).append(text)
    producers.update(dict.fromkeys(outputs, _Node(operator, inputs)))


def _name_and_shape(message: Message, begin: int, end: int) -> tuple[str, tuple[int, ...]]:
    name, axes = "", list[int]()
    for number, wire_type, start, stop in message.fields(begin, end):
        if number == _TENSOR_NAME and wire_type == BYTES:
            name = message.text(start, stop)
        elif number == _TENSOR_AXES:
            axes += [start] if wire_type == VARINT else message.numbers(start, stop)
    return name, tuple(axes)


def _width(name: str, producers: Mapping[str, _Node], shapes: _Shapes) -> int | None:
    """Follow an output back to the first weights that determine its width."""
    for _ in range(_MAX_STEPS):
        node = producers.get(name)
        if node is None:
            return None
        weights = [_weight(each, producers, shapes) for each in node.inputs]
        widths = [shape[-1] for shape in weights if shape and shape[-1] > 1]
        if node.operator == "Gemm":  # its matrix may be transposed, its bias is not
            return widths[-1] if len(widths) > 1 else None
        if widths and node.operator in {"MatMul", *_KEEP_WIDTH}:
            return widths[0]
        if node.operator not in _KEEP_WIDTH:
            return None
        others = (each for each, w in zip(node.inputs, weights, strict=True) if w is None)
        name = next(others, "")
    return None


def _weight(name: str, producers: Mapping[str, _Node], shapes: _Shapes) -> tuple[int, ...] | None:
    """Return the shape of a weight, also behind a cast; None for a computed value."""
    node = producers.get(name)
    if node is not None and node.operator in _WIDEN and node.inputs:
        name = node.inputs[0]
    return shapes.get(name)


def _value(message: Message, begin: int, end: int) -> tuple[str, Value]:
    value = _parse(message, onnx.ValueInfoProto, begin, end)
    tensor = value.type.tensor_type
    try:
        dtype = TensorProto.DataType.Name(tensor.elem_type)
    except ValueError as error:
        raise message.broken() from error
    axes = (axis.dim_value if axis.HasField("dim_value") else 0 for axis in tensor.shape.dim)
    # protobuf returns bytes if they are not UTF-8.
    name = value.name if isinstance(value.name, str) else value.name.decode("utf-8", "replace")
    return name, Value(dtype, tuple(length if length > 0 else None for length in axes))


def _parse(message: Message, kind: Any, begin: int, end: int) -> Any:
    try:
        return kind.FromString(message.take(begin, end))
    except DecodeError as error:
        raise message.broken() from error


def _bits(found: _Found) -> int:
    """Derive the precision from the operators that use the weights, else from the most common type.

    A graph in float16 also has float16 inputs, but its norms may be float32.
    """
    types, sizes = frozenset(found.bytes_of), found.bytes_of
    is_widened = "DequantizeLinear" in found.operators
    n_half = sum(sizes[kind] for kind in _HALF)
    if found.block_bits or (is_widened and types & _NIBBLE):
        return min(found.block_bits, default=4)
    if found.operators & _INTEGER_OPERATORS or (is_widened and types & _BYTE):
        return 8
    takes_half = any(value.dtype == "FLOAT16" for value in found.inputs.values())
    return 16 if takes_half or n_half > sizes.total() // 2 else 32


def _data_files(path: Path, ends: Mapping[str, int]) -> Iterator[Path]:
    """Yield the files with a graph's weights, which must be in the graph's folder.

    Raises:
        ModelError: a file is in another folder, missing or too short.
    """
    for location, end in ends.items():
        is_plain = PurePosixPath(location).name == PureWindowsPath(location).name == location
        is_long = len(location.encode()) > _MAX_NAME_BYTES
        if not is_plain or is_long or location in {"", ".", ".."} or "\0" in location:
            raise ModelError(
                f"{path} refers to weights in {location!r:.100}; they must be in a file in the "
                "same folder.",
                code="external_data_location",
            )
        file = path.with_name(location)
        if not file.is_file():
            raise ModelError(
                f"{file} does not exist, but {path.name} has its weights there; download it into "
                "the same folder.",
                code="external_data_missing",
            )
        if (missing := end - file.stat().st_size) > 0:
            raise ModelError(
                f"{file} is cut short, {missing:,} bytes are missing; download it again.",
                code="file_cut_short",
            )
        yield file
