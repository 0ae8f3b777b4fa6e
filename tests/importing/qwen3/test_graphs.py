"""The encoder's graphs as files: their inputs and outputs, their precision, and onnxruntime."""

import os
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.importing.options import EncoderWidth
from streamasr.importing.qwen3.checkpoint import Checkpoint
from streamasr.importing.qwen3.graphs import sinusoids, write_backend, write_frontend
from streamasr.importing.qwen3.safetensors_checkpoint import read_checkpoint
from streamasr.importing.tensors import Tensor
from streamasr.models.onnx import OnnxOptions
from streamasr.models.qwen3.encoder import Qwen3Encoder
from tests.support.checkpoints import Shape, StoredType, write_checkpoint
from tests.support.errors import raises
from tests.support.paths import TINY
from tests.support.signals import speechlike

ASR = TINY / "asr"
WIDTHS: tuple[EncoderWidth, ...] = ("fp32", "fp16", "int8")
LARGER = Shape(d_model=128, encoder_ffn=512, encoder_layers=3, encoder_heads=4)


@dataclass(frozen=True, slots=True)
class Given:
    """Tensor with values given by a test."""

    path: Path
    name: str
    shape: tuple[int, ...]
    stored_type: str
    values: Float32Array

    def stored(self) -> npt.NDArray[Any]:
        assert self.stored_type != "Q8_0", "only the values are given, not the blocks"
        return self.values

    def float32(self) -> Float32Array:
        return self.values


def given(tensor: Tensor, values: npt.ArrayLike, stored_type: str = "F32") -> Given:
    array = np.broadcast_to(np.asarray(values, np.float32), tensor.shape)
    return Given(tensor.path, tensor.name, tensor.shape, stored_type, array)


def with_tensors(checkpoint: Checkpoint, changed: dict[str, Tensor]) -> Checkpoint:
    return replace(checkpoint, tensors=dict(checkpoint.tensors) | changed)


def write(
    checkpoint: Checkpoint, directory: Path, width: EncoderWidth = "fp32"
) -> tuple[Path, Path]:
    directory.mkdir(exist_ok=True)
    frontend, backend = directory / "frontend.onnx", directory / "backend.onnx"
    write_frontend(checkpoint, frontend, width)
    write_backend(checkpoint, backend, width)
    return frontend, backend


def size(path: Path) -> int:
    return path.stat().st_size + path.with_name(f"{path.name}.data").stat().st_size


def matrices(path: Path) -> dict[str, TensorProto]:
    return {w.name: w for w in onnx.load(path).graph.initializer if len(w.dims) > 1}


def run(path: Path, hidden: Float32Array) -> Float32Array:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    mask = np.zeros((len(hidden), 1, hidden.shape[1], hidden.shape[1]), np.float32)
    feeds = {"hidden_states": hidden, "attention_mask": mask}
    result: Float32Array = session.run(None, feeds)[0]
    return result


def open_encoder(files: tuple[Path, Path]) -> Qwen3Encoder:
    return Qwen3Encoder(*files, 800, OnnxOptions(threads=1))


def cosine(a: Float32Array, b: Float32Array) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_graphs_are_valid_and_have_the_specified_inputs_and_outputs(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c"))
    for width in WIDTHS:
        paths = write(checkpoint, tmp_path / width, width)
        for path in paths:
            onnx.checker.check_model(path, full_check=True)
        frontend, backend = map(onnx.load, paths)
        for model in (frontend, backend):
            assert model.opset_import[0].version >= 17
            assert {node.domain for node in model.graph.node} == {""}
        assert ports(frontend) == {
            "chunk_mel": ["n_chunks", 128, 100],
            "chunk_out": ["n_chunks", 13, 32],
        }
        assert ports(backend) == {
            "hidden_states": ["n_windows", "time", 32],
            "attention_mask": ["n_windows", 1, "time", "time"],
            "last_hidden_state": ["n_windows", "time", 48],
        }


def ports(model: onnx.ModelProto) -> dict[str, list[str | int]]:
    return {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c"))
    write(checkpoint, tmp_path / "a", "int8")
    write(checkpoint, tmp_path / "b", "int8")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_matrices_are_stored_beside_the_graph_and_all_else_in_it(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c"))
    for path in write(checkpoint, tmp_path / "g"):
        model = onnx.load(path, load_external_data=False)
        for weight in model.graph.initializer:
            external = {entry.key: entry.value for entry in weight.external_data}
            is_constant = weight.name.startswith("constant")
            assert bool(external) == (len(weight.dims) > 1 and not is_constant)
            if external:
                assert external["location"] == f"{path.name}.data"
                assert int(external["offset"]) % 4096 == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_graphs_run_from_any_folder_even_if_it_is_read_only_or_has_links(
    tmp_path: Path, width: EncoderWidth
) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c"))
    expected = open_encoder(write(checkpoint, tmp_path / "g", width)).encode(speechlike(50_000))
    shutil.move(tmp_path / "g", tmp_path / "elsewhere")
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in (tmp_path / "elsewhere").iterdir():
        path.chmod(0o444)
        os.link(path, linked / path.name)
    linked.chmod(0o555)
    encoder = open_encoder((linked / "frontend.onnx", linked / "backend.onnx"))
    assert np.array_equal(encoder.encode(speechlike(50_000)), expected)
    linked.chmod(0o755)


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_missing_or_incomplete_weights_are_an_error(tmp_path: Path, damage: str) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c"))
    files = write(checkpoint, tmp_path / "g")
    data = files[1].with_name("backend.onnx.data")
    if damage == "missing":
        data.unlink()
    else:
        os.truncate(data, data.stat().st_size - 5000)
    with raises(ModelError, "graph_unloadable") as caught:
        open_encoder(files)
    assert "backend.onnx" in str(caught.value)


@pytest.mark.parametrize("stored_type", ["F16", "BF16"])
def test_fp32_stores_half_precision_unchanged(tmp_path: Path, stored_type: StoredType) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c", LARGER, stored_type=stored_type))
    widened = {
        name: given(tensor, tensor.float32())
        for name, tensor in checkpoint.tensors.items()
        if not name.startswith("language_model")
    }
    # float32 values that float16 can represent exactly would be stored in half precision, too.
    widened = {n: given(t, np.nextafter(t.values, np.float32(9))) for n, t in widened.items()}
    _, half = write(checkpoint, tmp_path / "half")
    _, full = write(with_tensors(checkpoint, dict(widened)), tmp_path / "full")
    expected = {"F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}[stored_type]
    assert {weight.data_type for weight in matrices(half).values()} == {expected}
    assert {weight.data_type for weight in matrices(full).values()} == {TensorProto.FLOAT}
    assert size(half) < 0.6 * size(full)
    x = np.random.default_rng(0).normal(size=(1, 9, 128)).astype(np.float32)
    np.testing.assert_allclose(run(half, x), run(full, x), rtol=0, atol=1e-3)
    weights = matrices(half)
    for name, tensor in checkpoint.tensors.items():
        if (stored := weights.get(f"{name}.{stored_type}")) is not None:
            assert np.array_equal(
                numpy_helper.to_array(stored).T.astype(np.float32), tensor.float32()
            )


@pytest.mark.parametrize("stored_type", ["F16", "BF16"])
def test_onnxruntime_folds_the_casts_when_it_loads(tmp_path: Path, stored_type: StoredType) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c", stored_type=stored_type))
    assert not {"Cast", "Erf"} & optimised(write(checkpoint, tmp_path / "g")[1], tmp_path)


def optimised(path: Path, directory: Path) -> set[str]:
    """Return the operators of the graph that onnxruntime runs after optimisation."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(directory / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    graph = onnx.load(directory / "optimised.onnx", load_external_data=False).graph
    return {node.op_type for node in graph.node}


def test_dequantised_blocks_are_stored_in_half_precision_only_if_that_is_exact(
    tmp_path: Path,
) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c"))
    first, second = (f"audio_tower.layers.0.fc{number}.weight" for number in (1, 2))
    scale = np.float32(np.float16(0.0123))
    tensors = checkpoint.tensors
    levels = np.arange(32 * 64).reshape(64, 32) % 255 - 127
    blocks: dict[str, Tensor] = {
        first: given(tensors[first], levels * scale, "Q8_0"),
        second: given(tensors[second], levels.T * np.float32(0.5), "Q8_0"),
    }
    _, backend = write(with_tensors(checkpoint, blocks), tmp_path / "g")
    weights = matrices(backend)
    assert np.array_equal(numpy_helper.to_array(weights[first]).T, levels * scale)
    assert not np.array_equal(np.float16(levels * scale), levels * scale)
    assert np.array_equal(numpy_helper.to_array(weights[f"{second}.F16"]), levels * np.float32(0.5))


def test_fp16_stores_every_matrix_in_half_precision_and_computes_in_float32(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c", LARGER))
    exact, half = write(checkpoint, tmp_path / "e"), write(checkpoint, tmp_path / "h", "fp16")
    weights = [w for path in half for w in matrices(path).values() if "constant" not in w.name]
    assert {weight.data_type for weight in weights} == {TensorProto.FLOAT16}
    assert size(half[1]) < 0.6 * size(exact[1])
    a, b = (open_encoder(files).encode(speechlike(150_000)) for files in (exact, half))
    assert cosine(a, b) > 0.99999
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, width: EncoderWidth, value: float
) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c"))
    name = "audio_tower.layers.1.fc1.weight"
    broken: dict[str, Tensor] = {name: given(checkpoint.tensors[name], np.float32(value))}
    with raises(ModelError, "weight_not_finite") as caught:
        write(with_tensors(checkpoint, broken), tmp_path / "g", width)
    assert "layers.1.fc1.weight " in str(caught.value)


def test_weights_beyond_the_range_of_float16_are_refused_only_in_fp16(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c"))
    name = "audio_tower.layers.1.fc1.weight"
    large = with_tensors(checkpoint, {name: given(checkpoint.tensors[name], np.float32(70_000))})
    with raises(ModelError, "weight_exceeds_fp16") as caught:
        write(large, tmp_path / "h", "fp16")
    assert "layers.1.fc1.weight has values up to 70000" in str(caught.value)
    for width in ("fp32", "int8"):
        write(large, tmp_path / width, width)


def test_a_quantised_encoder_is_smaller_and_close(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(ASR)
    exact, quantised = write(checkpoint, tmp_path / "e"), write(checkpoint, tmp_path / "q", "int8")
    assert size(quantised[1]) < 0.6 * size(exact[1])  # which is stored in float16
    clip = speechlike(150_000)
    a, b = (open_encoder(files).encode(clip) for files in (exact, quantised))
    assert cosine(a, b) >= 0.999
    operators = optimised(quantised[1], tmp_path)
    assert {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"} <= operators
    assert not {"MatMulInteger", "Cast", "Erf"} & operators


def test_a_quantised_encoder_equals_that_of_onnxruntimes_quantiser(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quant_utils, quantize_dynamic

    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c", LARGER))
    full, ours = write(checkpoint, tmp_path / "e")[1], write(checkpoint, tmp_path / "q", "int8")[1]
    model = onnx.load(full)
    quant_utils.add_pre_process_metadata(model)
    theirs = tmp_path / "theirs.onnx"
    quantize_dynamic(
        model,
        theirs,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        reduce_range=True,
    )
    x = np.random.default_rng(0).normal(size=(1, 104, 128)).astype(np.float32)
    assert np.array_equal(run(ours, x), run(theirs, x))
    assert optimised(ours, tmp_path) == optimised(theirs, tmp_path)


def test_windows_of_a_quantised_encoder_do_not_depend_on_each_other(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c"))
    encoder = open_encoder(write(checkpoint, tmp_path / "q", "int8"))
    hidden = np.random.default_rng(0).normal(size=(130, 32)).astype(np.float32)
    loud = np.concatenate([hidden[:104], 100 * hidden[104:]])
    assert np.array_equal(encoder.attend(hidden)[:104], encoder.attend(loud)[:104])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("write_graph", [write_frontend, write_backend])
def test_progress_counts_every_weight_once(
    tmp_path: Path, write_graph: Callable[..., None], width: EncoderWidth
) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c"))
    steps: list[tuple[str, int, int]] = []
    write_graph(checkpoint, tmp_path / "g.onnx", width, lambda *step: steps.append(step))
    done = [step[1] for step in steps]
    assert done == sorted(set(done))
    assert done[-1] == steps[0][2] > 0
    assert len({total for _, _, total in steps}) == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_writing_needs_only_the_memory_of_a_few_tensors(
    tmp_path: Path, width: EncoderWidth
) -> None:
    shape = replace(LARGER, d_model=256, encoder_ffn=1024, encoder_layers=12)
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c", shape))
    largest = 256 * 1024 * 4
    tracemalloc.start()
    try:
        write_backend(checkpoint, tmp_path / "b.onnx", width)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * largest  # of 37 in the file


def test_positions_start_with_sines_and_end_with_cosines() -> None:
    rows = sinusoids(13, 8)
    assert rows.shape == (13, 8)
    assert rows[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    np.testing.assert_allclose(rows[5, [0, 3]], [np.sin(5), np.sin(5e-4)], rtol=1e-5)
    np.testing.assert_allclose(rows[5, [4, 7]], [np.cos(5), np.cos(5e-4)], rtol=1e-5)
