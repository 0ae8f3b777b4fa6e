"""Providers of onnxruntime: the order of attempts, and the failures."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from streamasr.core.errors import ModelError
from streamasr.models import tiny
from streamasr.models.onnx import (
    CPU,
    OnnxOptions,
    OnnxSession,
    open_any,
    open_session,
    usable_providers,
)
from tests.support.errors import raises
from tests.support.paths import REPOSITORY

CUDA = "CUDAExecutionProvider"
DML = "DmlExecutionProvider"
KNOWN = (CUDA, DML, CPU)


@pytest.mark.parametrize(
    ("wanted", "built_in", "tried", "missing"),
    [
        ([CPU], [CPU], [CPU], []),
        ([CUDA], [CUDA, CPU], [CUDA, CPU], []),
        ([CUDA, CPU], [CUDA, CPU], [CUDA, CPU], []),
        ([CPU, CUDA], [CUDA, CPU], [CPU, CUDA], []),
        ([CUDA], [CPU], [CPU], [CUDA]),
        ([DML, CUDA], [CUDA, CPU], [CUDA, CPU], [DML]),
    ],
)
def test_providers_of_this_build_are_tried_in_order_and_the_cpu_at_last(
    wanted: list[str], built_in: list[str], tried: list[str], missing: list[str]
) -> None:
    assert usable_providers(wanted, KNOWN, built_in) == (tried, missing)


@given(
    wanted=st.lists(st.sampled_from([*KNOWN, "Abacus"]), max_size=4, unique=True),
    built_in=st.sets(st.sampled_from(KNOWN)).map(lambda names: names | {CPU}),
)
def test_each_provider_is_tried_is_missing_or_is_unknown(
    wanted: list[str], built_in: set[str]
) -> None:
    if "Abacus" in wanted:
        with raises(ModelError, "unknown_provider"):
            usable_providers(wanted, KNOWN, built_in)
        return
    tried, missing = usable_providers(wanted, KNOWN, built_in)
    assert CPU in tried
    assert set(tried) <= built_in
    assert {*tried, *missing} == {*wanted, CPU}


def write_graph(path: Path, *, data: str | None = None) -> Path:
    """y = x + w, its weights perhaps in another file."""
    weight = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "add",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "width"])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, path, save_as_external_data=data is not None, location=data, size_threshold=0)
    return path


def opened(path: Path, options: OnnxOptions) -> OnnxSession:
    return open_session(path, options, inputs={"x": 2}, outputs={"y": 2})


def sessions_without_gpu(*, raises: bool) -> Any:
    """onnxruntime's own session, on a machine whose driver is gone: it raises, or goes without."""
    real = onnxruntime.InferenceSession

    def open_without_gpu(path: str, settings: object, providers: list[str]) -> Any:
        if raises and CUDA in providers:
            raise EPFail("the driver is gone\n(try again)")
        return real(path, settings, providers=[name for name in providers if name != CUDA])

    return open_without_gpu


@pytest.mark.parametrize("raises", [True, False])
def test_a_provider_that_fails_gives_way_to_the_cpu_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raises: bool
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr("onnxruntime.InferenceSession", sessions_without_gpu(raises=raises))
    warnings: list[str] = []
    session = opened(write_graph(tmp_path / "a.onnx"), OnnxOptions((CUDA,), warn=warnings.append))
    assert session.providers == (CPU,)
    np.testing.assert_array_equal(session.run("y", x=np.zeros((1, 4), np.float32)), [[0, 1, 2, 3]])
    [warning] = warnings
    assert CUDA in warning
    assert "\n" not in warning


def test_a_broken_file_is_not_blamed_on_a_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr("onnxruntime.InferenceSession", sessions_without_gpu(raises=True))
    warnings: list[str] = []
    path = tmp_path / "a.onnx"
    path.write_bytes(b"nonsense")
    with raises(ModelError, "graph_unloadable"):
        opened(path, OnnxOptions((CUDA,), warn=warnings.append))
    assert warnings == []


def test_weights_in_a_file_of_their_own_are_found(tmp_path: Path) -> None:
    write_graph(tmp_path / "a.onnx", data="a.onnx.data")
    session = opened(tmp_path / "a.onnx", OnnxOptions())
    np.testing.assert_array_equal(session.run("y", x=np.ones((1, 4), np.float32)), [[1, 2, 3, 4]])


def test_weights_that_are_missing_are_a_sentence(tmp_path: Path) -> None:
    write_graph(tmp_path / "a.onnx", data="a.onnx.data")
    (tmp_path / "a.onnx.data").unlink()
    with raises(ModelError, "graph_unloadable") as raised:
        opened(tmp_path / "a.onnx", OnnxOptions())
    assert "\n" not in str(raised.value)


def test_a_width_is_stated_or_found_out(tmp_path: Path) -> None:
    session = opened(write_graph(tmp_path / "a.onnx"), OnnxOptions())
    assert session.width("y", x=(1, 4)) == 4


def test_inputs_that_a_graph_does_not_take_are_a_sentence(tmp_path: Path) -> None:
    session = opened(write_graph(tmp_path / "a.onnx"), OnnxOptions())
    with raises(ModelError, "graph_does_not_run"):
        session.run("y", x=np.zeros((1, 7), np.float32))


def test_onnxruntime_sends_no_reports_and_leaves_nothing_in_the_users_cache(
    tmp_path: Path,
) -> None:
    program = "from streamasr.models.onnx import load_onnxruntime as f; f().InferenceSession({!r})"
    command = [sys.executable, "-c", program.format(str(tiny.BUNDLE / "encoder_frontend.onnx"))]
    # In continuous integration it keeps quiet of itself.
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run(command, env=kept | home, cwd=REPOSITORY, check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [TensorProto.INT32, TensorProto.INT64])
def test_inputs_of_integers_get_the_integers_of_the_graph(tmp_path: Path, kind: int) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        "cast",
        [helper.make_tensor_value_info("x", kind, [1, "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, "n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, tmp_path / "a.onnx")
    session = opened(tmp_path / "a.onnx", OnnxOptions())
    result = session.run("y", x=np.array([[3, -1]]))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, [[3, -1]])


def test_several_outputs_come_from_one_run_as_float32(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["x"], ["y"]),
            helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        ],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_value_info("whole", TensorProto.INT64, ["n", 2]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, tmp_path / "a.onnx")
    session = open_any(tmp_path / "a.onnx", OnnxOptions())
    results = session.run_for(["whole", "y"], {"x": np.array([[1.5, 2.5]])})
    assert [result.dtype for result in results] == [np.float32, np.float32]
    assert [result.tolist() for result in results] == [[[1, 2]], [[1.5, 2.5]]]
