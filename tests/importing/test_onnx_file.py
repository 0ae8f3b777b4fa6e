"""Descriptions of ONNX graphs, read without the weights; damaged and malicious files."""

import contextlib
import os
import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from streamasr.core.errors import ModelError
from streamasr.importing import onnx_message
from streamasr.importing.onnx_file import Value, read_graph
from streamasr.importing.options import EncoderWidth
from streamasr.importing.qwen3.graphs import write_backend, write_frontend
from streamasr.importing.qwen3.safetensors_checkpoint import read_checkpoint
from tests.sources.onnx_graphs import Precision, write_graphs
from tests.sources.weights import Weights
from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.errors import raises
from tests.support.examples import examples


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("c"), Shape())


def graph(
    nodes: Sequence[onnx.NodeProto], weights: Sequence[TensorProto] = (), dtype: int = 1
) -> onnx.ModelProto:
    """Build a model with the input `x` (n, 4) and the output `y`."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, ["n", 4])],
        [helper.make_tensor_value_info("y", dtype, None)],
        list(weights),
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)])


def save(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def weight(values: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values), "w")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_published_graphs_are_described_in_every_precision(
    tmp_path: Path, checkpoint: Path, precision: Precision
) -> None:
    write_graphs(Weights(checkpoint), tmp_path / "f.onnx", tmp_path / "b.onnx", precision)
    frontend, backend = read_graph(tmp_path / "f.onnx"), read_graph(tmp_path / "b.onnx")
    dtype = "FLOAT16" if precision == "fp16" else "FLOAT"
    assert frontend.inputs == {"chunk_mel": Value(dtype, (1, 128, 100))}
    assert frontend.outputs == {"chunk_out": Value(dtype, (1, 13, 32))}
    assert backend.inputs == {
        "hidden_states": Value(dtype, (None, None, 32)),
        "attention_mask": Value(dtype, (None, 1, None, None)),
    }
    for info in (frontend, backend):
        loaded = onnx.load(info.path)
        assert info.opset == 19
        assert info.precision == precision
        assert info.operators == {node.op_type for node in loaded.graph.node}
        assert info.data_files == ()


@pytest.mark.parametrize("width", ["fp16", "int8"])
def test_our_own_graphs_are_described_with_their_external_weights(
    tmp_path: Path, checkpoint: Path, width: EncoderWidth
) -> None:
    write_frontend(read_checkpoint(checkpoint), tmp_path / "f.onnx", width)
    write_backend(read_checkpoint(checkpoint), tmp_path / "b.onnx", width)
    info = read_graph(tmp_path / "b.onnx")
    assert info.precision == width
    assert info.data_files == (tmp_path / "b.onnx.data",)
    model = onnx.load(info.path)
    sizes = (numpy_helper.to_array(weight).nbytes for weight in model.graph.initializer)
    assert info.initializer_bytes == sum(sizes)


def test_weights_are_not_read(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = save(tmp_path / "g.onnx", graph([node], [weight(np.ones((4, 1 << 20), np.float32))]))
    assert path.stat().st_size > 1 << 24
    tracemalloc.start()
    try:
        info = read_graph(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert info.initializer_bytes == 1 << 24
    assert peak < 1 << 18


@pytest.mark.parametrize(
    ("operator", "attributes", "expected"),
    [
        ("MatMul", {}, "fp32"),
        ("MatMulInteger", {}, "int8"),
        ("DynamicQuantizeMatMul", {}, "int8"),
        ("QLinearConv", {}, "int8"),
        ("ConvInteger", {}, "int8"),
        ("MatMulNBits", {}, "int4"),
        ("MatMulNBits", {"bits": 4, "block_size": 128}, "int4"),
        ("MatMulNBits", {"bits": 8}, "int8"),
        ("MatMulNBits", {"bits": 2}, "int2"),
    ],
)
def test_the_precision_follows_from_the_operators(
    tmp_path: Path, operator: str, attributes: dict[str, Any], expected: str
) -> None:
    node = helper.make_node(operator, ["x", "w"], ["y"], domain="com.microsoft", **attributes)
    path = save(tmp_path / "g.onnx", graph([node], [weight(np.ones((4, 4), np.float32))]))
    assert read_graph(path).precision == expected


@pytest.mark.parametrize(
    ("data_type", "operator", "expected"),
    [
        (TensorProto.FLOAT, "MatMul", "fp32"),
        (TensorProto.FLOAT16, "Cast", "fp16"),
        (TensorProto.BFLOAT16, "Cast", "fp16"),
        (TensorProto.INT8, "DequantizeLinear", "int8"),
        (TensorProto.UINT8, "DequantizeLinear", "int8"),
        (TensorProto.INT4, "DequantizeLinear", "int4"),
        (TensorProto.UINT4, "DequantizeLinear", "int4"),
    ],
)
@pytest.mark.parametrize("is_constant", [False, True])
def test_the_precision_follows_from_the_weights_if_operators_do_not_determine_it(
    tmp_path: Path, data_type: int, operator: str, expected: str, *, is_constant: bool
) -> None:
    values = TensorProto(name="w", data_type=data_type, dims=(4, 4), raw_data=bytes(64))
    nodes = [helper.make_node(operator, ["w"], ["y"])]
    if is_constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=values))
    path = save(tmp_path / "g.onnx", graph(nodes, [] if is_constant else [values]))
    assert read_graph(path).precision == expected


def test_float16_inputs_mean_fp16_unless_the_weights_are_blocks(tmp_path: Path) -> None:
    for operator, expected in (("MatMul", "fp16"), ("MatMulNBits", "int4")):
        node = helper.make_node(operator, ["x", "w"], ["y"])
        model = graph([node], [weight(np.ones((4, 4), np.float32))], dtype=TensorProto.FLOAT16)
        assert read_graph(save(tmp_path / "g.onnx", model)).precision == expected


def test_inputs_that_are_weights_are_not_listed(tmp_path: Path) -> None:
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight(np.ones((4, 4)))])
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.DOUBLE, [4, 4]))
    assert read_graph(save(tmp_path / "g.onnx", model)).inputs.keys() == {"x"}


MATRIX = numpy_helper.from_array(np.zeros((4, 6), np.float32), "m")
BIAS = numpy_helper.from_array(np.zeros(6, np.float32), "b")
HALF_BIAS = numpy_helper.from_array(np.zeros(6, np.float16), "h")
node = helper.make_node


@pytest.mark.parametrize(
    ("nodes", "width"),
    [
        ([node("MatMul", ["x", "m"], ["y"])], 6),
        ([node("MatMul", ["x", "m"], ["c"]), node("Add", ["b", "c"], ["y"])], 6),
        ([node("MatMul", ["x", "m"], ["c"]), node("Cast", ["c"], ["y"], to=1)], 6),
        ([node("Gemm", ["x", "m", "b"], ["y"])], 6),
        ([node("Gemm", ["x", "m"], ["y"])], None),
        (
            [
                node("MatMul", ["x", "q"], ["c"]),
                node("Cast", ["h"], ["d"], to=1),
                node("Add", ["c", "d"], ["y"]),
            ],
            6,
        ),
        ([node("Relu", ["x"], ["y"])], None),
        ([node("Identity", ["y"], ["y"])], None),
        ([node("Identity", ["x"], ["y"])], None),
        ([node("MatMul", ["x", "x"], ["y"])], None),
        ([node("Add", [], ["y"])], None),
        ([], None),
    ],
)
def test_an_unstated_width_is_that_of_the_last_weights(
    tmp_path: Path, nodes: list[onnx.NodeProto], width: int | None
) -> None:
    model = graph(nodes, [MATRIX, BIAS, HALF_BIAS])
    shape = model.graph.output[0].type.tensor_type.shape
    for name in ("n", "width"):
        shape.dim.add().dim_param = name
    assert read_graph(save(tmp_path / "g.onnx", model)).outputs["y"].shape == (None, width)


def test_the_metadata_is_read_except_for_large_entries(tmp_path: Path) -> None:
    model = graph([helper.make_node("Identity", ["x"], ["y"])])
    entries = {"model_type": "paraformer", "neg_mean": ",".join(560 * ["-8.311879"])}
    helper.set_model_props(model, {**entries, "large": "x" * (1 << 17)})
    assert read_graph(save(tmp_path / "m.onnx", model)).metadata == entries


def test_operators_in_functions_are_listed(tmp_path: Path) -> None:
    model = graph([helper.make_node("Mine", ["x"], ["y"], domain="mine")])
    inner = [helper.make_node("MatMulInteger", ["a", "a"], ["b"])]
    function = helper.make_function(
        "mine", "Mine", ["a"], ["b"], inner, [helper.make_opsetid("", 19)]
    )
    model.functions.append(function)
    assert read_graph(save(tmp_path / "g.onnx", model)).operators == {"Mine", "MatMulInteger"}


def with_external_weights(tmp_path: Path, location: str, **changes: str) -> Path:
    """Write a graph whose weights are in another file."""
    values = TensorProto(name="w", data_type=1, dims=(4, 4), data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "64", **changes}.items():
        values.external_data.add(key=key, value=value)
    (tmp_path / "d.data").write_bytes(bytes(100))
    return save(
        tmp_path / "g.onnx", graph([helper.make_node("MatMul", ["x", "w"], ["y"])], [values])
    )


@pytest.mark.parametrize(
    "location",
    ["", ".", "..", "../d.data", "/etc/passwd", "a/d.data", "a\\d.data", "C:d.data", "a\0"],
)
def test_weights_in_another_folder_are_refused(tmp_path: Path, location: str) -> None:
    with raises(ModelError, "external_data_location") as caught:
        read_graph(with_external_weights(tmp_path, location))
    assert repr(location) in str(caught.value)


def test_a_name_of_external_weights_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with raises(ModelError, "external_data_location") as caught:
        read_graph(with_external_weights(tmp_path, "x" * 10_000))
    assert len(str(caught.value)) < 500


def test_texts_that_are_not_utf_8_are_read_nevertheless(tmp_path: Path) -> None:
    model = graph([helper.make_node("Identity", ["x"], ["y"])])
    helper.set_model_props(model, {"key": "vvvv"})
    path = save(tmp_path / "m.onnx", model)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"vvvv", b"v\xff\xffv"))
    assert read_graph(path).metadata["key"].startswith("v")
    path.write_bytes(content.replace(b"key", b"k\xffy"))
    assert all(isinstance(key, str) for key in read_graph(path).metadata)
    named = graph([helper.make_node("Identity", ["input"], ["output"])])
    named.graph.input[0].name, named.graph.output[0].name = "input", "output"
    content = save(path, named).read_bytes()
    path.write_bytes(content.replace(b"input", b"in\xffut").replace(b"output", b"out\xffut"))
    found = read_graph(path)
    assert all(isinstance(name, str) for name in [*found.inputs, *found.outputs])


@pytest.mark.parametrize(
    ("changes", "code", "value"),
    [
        ({"offset": "-4"}, "graph_damaged", ""),
        ({"length": "-4"}, "graph_damaged", ""),
        ({"offset": "many"}, "graph_damaged", ""),
        ({"offset": "9" * 5000}, "graph_damaged", ""),
        ({"offset": "40"}, "file_cut_short", "d.data is cut short, 4 bytes "),
        ({"length": str(1 << 70)}, "file_cut_short", "d.data "),
    ],
)
def test_positions_outside_of_the_file_are_refused(
    tmp_path: Path, changes: dict[str, str], code: str, value: str
) -> None:
    path = with_external_weights(tmp_path, "d.data")
    assert read_graph(path).data_files == (tmp_path / "d.data",)
    with raises(ModelError, code) as caught:
        read_graph(with_external_weights(tmp_path, "d.data", **changes))
    assert value in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\x00",
        b"GGUF" + bytes(100),
        b"PK\x03\x04" + bytes(100),
        b"{}",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"<!DOCTYPE html><html></html>",
        b"\x08\x08" * 100,  # a version and nothing else
        b"\x08\x08\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a graph of 2^64 bytes
        b"\x08\x08\x3a\x00",  # no version of the operators
        b"\x08" + b"\xff" * 20,
        b"\x08\x08\x3a\x00\x3a\x00\x42\x02\x10\x11",  # two graphs
        b"\x0b\x0c" * 10,  # groups
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(content)
    with raises(ModelError, "graph_damaged") as caught:
        read_graph(path)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_not_a_file_with_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    os.mkfifo(tmp_path / "pipe.onnx")
    for path, code in (
        (tmp_path / "none.onnx", "file_missing"),
        (tmp_path, "file_missing"),
        (tmp_path / "pipe.onnx", "file_missing"),
        (tmp_path / "empty.onnx", "file_empty"),
    ):
        with raises(ModelError, code):
            read_graph(path)


def test_a_graph_with_too_many_fields_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_message, "_MAX_FIELDS", 1000)
    path = tmp_path / "g.onnx"
    path.write_bytes(b"\x08\x08" * 2000)
    with raises(ModelError, "graph_too_large"):
        read_graph(path)


def test_names_and_shapes_that_are_too_long_are_refused(tmp_path: Path) -> None:
    long_name = graph([helper.make_node("N" * (1 << 17), ["x"], ["y"])])
    many_names = graph([helper.make_node(f"{n}{'N' * 60_000}", [], []) for n in range(300)])
    many_axes = graph([])
    many_axes.graph.input.append(helper.make_tensor_value_info("z", 1, [1] * (1 << 15)))
    for model in (long_name, many_names, many_axes):
        with raises(ModelError, "graph_too_large"):
            read_graph(save(tmp_path / "g.onnx", model))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> bytes:
    directory = tmp_path_factory.mktemp("sound")
    write_graphs(Weights(checkpoint), directory / "f.onnx", directory / "b.onnx", "int8")
    model = onnx.load(directory / "b.onnx")
    # An unstated width, so that operators and weights are read to infer it.
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "width"
    return bytes(model.SerializeToString())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(200))
@given(st.floats(0, 1, exclude_max=True))
def test_a_graph_that_is_cut_short_is_refused(tmp_path: Path, sound: bytes, part: float) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(sound[: int(part * len(sound))])
    with pytest.raises(ModelError):
        read_graph(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(300))
@given(st.integers(0, 1 << 30), st.integers(1, 8))
@pytest.mark.process
def test_a_damaged_graph_is_either_read_or_refused(
    tmp_path: Path, sound: bytes, seed: int, n_bytes: int
) -> None:
    chance = random.Random(seed)
    damaged = bytearray(sound)
    for _ in range(n_bytes):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    path = tmp_path / "g.onnx"
    path.write_bytes(damaged)
    with contextlib.suppress(ModelError):
        read_graph(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(300))
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        read_graph(path)
