"""Builder of ONNX graphs of Paraformers in memory, with the operators of PyTorch's exporter."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.sources.paraformer.weights import Weights

OPSET: Final = 14  # FunASR's default
IR_VERSION: Final = 8
_EPSILON: Final = 1e-12


class Graph:
    """Graph in memory, with the weights in it."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._values: dict[str, TensorProto] = {}

    def node(
        self, operator: str, *inputs: str, output: str | None = None, name: str = "", **rest: Any
    ) -> str:
        output = output or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], name or output, **rest))
        return output

    def value(self, array: npt.NDArray[Any] | np.floating[Any]) -> str:
        name = f"value_{len(self._values)}"
        self._values[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def number(self, number: int) -> str:
        return self.value(np.array(number, np.int64))

    def ints(self, *lists: Sequence[int]) -> list[str]:
        return [self.value(np.array(each, np.int64)) for each in lists]

    def tensor(self, name: str) -> str:
        if name not in self._values:
            self._values[name] = numpy_helper.from_array(self.weights.read(name), name)
        return name

    def linear(self, hidden: str, name: str, *, has_bias: bool = True, node: str = "") -> str:
        weight = f"{name}.weight.T"
        if weight not in self._values:
            matrix = np.ascontiguousarray(self.weights.read(f"{name}.weight").T)
            self._values[weight] = numpy_helper.from_array(matrix, weight)
        product = self.node("MatMul", hidden, weight, name=node)
        return self.node("Add", product, self.tensor(f"{name}.bias")) if has_bias else product

    def norm(self, hidden: str, name: str) -> str:
        """Add a LayerNorm from simple operators: opset 14 has none."""
        mean = self.node("ReduceMean", hidden, axes=[-1])
        centred = self.node("Sub", hidden, mean)
        square = self.node("Mul", centred, centred)
        variance = self.node("ReduceMean", square, axes=[-1])
        variance = self.node("Add", variance, self.value(np.float32(_EPSILON)))
        normed = self.node("Div", centred, self.node("Sqrt", variance))
        normed = self.node("Mul", normed, self.tensor(f"{name}.weight"))
        return self.node("Add", normed, self.tensor(f"{name}.bias"))

    def parts(self, hidden: str, count: int) -> list[str]:
        width = self.weights.sizes.d_model
        ends = [(number * width, (number + 1) * width) for number in range(count)]
        return [self.node("Slice", hidden, *self.ints([b], [e], [2])) for b, e in ends]

    def attention(self, queries: str, keys: str, values: str, output: str) -> str:
        sizes = self.weights.sizes
        head = sizes.d_model // sizes.heads

        def split(hidden: str, axes: Sequence[int]) -> str:
            shape = self.value(np.array([0, -1, sizes.heads, head]))
            return self.node("Transpose", self.node("Reshape", hidden, shape), perm=axes)

        scores = self.node("MatMul", split(queries, [0, 2, 1, 3]), split(keys, [0, 2, 3, 1]))
        scores = self.node("Div", scores, self.value(np.float32(head**0.5)))
        mixed = self.node("Softmax", scores, axis=-1)
        mixed = self.node("MatMul", mixed, split(values, [0, 2, 1, 3]))
        mixed = self.node("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = self.node("Reshape", mixed, self.value(np.array([0, -1, sizes.d_model])))
        return self.linear(mixed, output)

    def fsmn(self, hidden: str, name: str, kernel: int, shift: int) -> str:
        past = (kernel - 1) // 2 + shift
        filtered = self.node(
            "Conv",
            self.node("Transpose", hidden, perm=[0, 2, 1]),
            self.tensor(f"{name}.weight"),
            group=self.weights.sizes.d_model,
            pads=[past, kernel - 1 - past],
        )
        return self.node("Add", self.node("Transpose", filtered, perm=[0, 2, 1]), hidden)

    def lstm(
        self,
        rows: str,
        prefix: str,
        layer: int,
        suffixes: Sequence[str],
        *,
        is_time_first: bool = False,
    ) -> str:
        """Add an LSTM; PyTorch has the gates i, f, g, o, and ONNX i, o, f, g."""
        width = self.weights.sizes.d_model
        order = np.r_[0:width, 3 * width : 4 * width, width : 3 * width]

        def read(kind: str) -> list[npt.NDArray[Any]]:
            return [self.weights.read(f"{prefix}.{kind}_l{layer}{s}")[order] for s in suffixes]

        biases = [
            np.concatenate(pair) for pair in zip(read("bias_ih"), read("bias_hh"), strict=True)
        ]
        matrices = (np.stack(read("weight_ih")), np.stack(read("weight_hh")), np.stack(biases))
        values = [self.value(matrix) for matrix in matrices]
        if not is_time_first:
            rows = self.node("Transpose", rows, perm=[1, 0, 2])
        direction = "bidirectional" if len(suffixes) == 2 else "forward"
        rows = self.node("LSTM", rows, *values, hidden_size=width, direction=direction)
        # n, directions, batch, width
        rows = self.node("Transpose", rows, perm=[0, 2, 1, 3] if is_time_first else [2, 0, 1, 3])
        return self.node("Reshape", rows, self.value(np.array([0, 0, len(suffixes) * width])))

    def model(
        self,
        inputs: Mapping[str, Sequence[int | str]],
        outputs: Mapping[str, Sequence[int | str]],
        *,
        lengths: str | None = None,
        count: str | None = None,
        hotwords: str | None = None,
    ) -> onnx.ModelProto:
        """Return the model; the last three arguments are ports of int32."""
        ports = helper.make_tensor_value_info
        taken = [ports(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
        given = [ports(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
        if lengths:
            taken.insert(1, ports(lengths, TensorProto.INT32, ["batch_size"]))
        if hotwords:
            taken.append(ports(hotwords, TensorProto.INT32, ["num_hotwords", 10]))
        if count:
            given.insert(1, ports(count, TensorProto.INT32, ["batch_size"]))
        graph = helper.make_graph(self._nodes, "main_graph", taken, given, [*self._values.values()])
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="pytorch",
        )
