"""The encoder's graphs as files: contract, precision, and what onnxruntime makes of them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from streamasr.importing.graphs import build_backend, build_frontend, sinusoids
from streamasr.importing.quantize import quantize_backend
from streamasr.importing.safetensors_checkpoint import read_checkpoint
from streamasr.models.onnx import OnnxOptions
from streamasr.models.qwen3_encoder import Qwen3Encoder
from streamasr.units import Float32Array
from tests.checkpoints import Shape, StoredType, write_checkpoint
from tests.signals import speechlike


def test_the_graphs_are_valid_and_keep_their_contract(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path))
    frontend, backend = build_frontend(checkpoint), build_backend(checkpoint)
    for model in (frontend, backend):
        onnx.checker.check_model(model, full_check=True)
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
    checkpoint = read_checkpoint(write_checkpoint(tmp_path))
    first, second = build_backend(checkpoint), build_backend(checkpoint)
    assert first.SerializeToString() == second.SerializeToString()


@pytest.mark.parametrize("stored_type", ["F16", "BF16"])
def test_half_precision_weights_are_stored_as_they_are(
    tmp_path: Path, stored_type: StoredType
) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path, stored_type=stored_type))
    backend = build_backend(checkpoint)
    weights = [w for w in backend.graph.initializer if not w.name.startswith("constant")]
    expected = {"F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}[stored_type]
    assert {weight.data_type for weight in weights} == {expected}
    widened = build_backend(checkpoint, keep_half=False)
    assert backend.ByteSize() < 0.65 * widened.ByteSize()
    x = np.random.default_rng(0).normal(size=(1, 9, 32)).astype(np.float32)
    assert np.array_equal(run(backend, x), run(widened, x))


@pytest.mark.parametrize("stored_type", ["F16", "BF16"])
def test_onnxruntime_folds_the_casts_when_it_loads(tmp_path: Path, stored_type: StoredType) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path, stored_type=stored_type))
    onnx.save(build_backend(checkpoint), tmp_path / "backend.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(tmp_path / "backend.onnx", options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert "Cast" not in operators
    assert "Erf" not in operators  # fused into one GELU


def run(model: onnx.ModelProto, hidden: Float32Array) -> Float32Array:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    mask = np.zeros((len(hidden), 1, hidden.shape[1], hidden.shape[1]), np.float32)
    feeds = {"hidden_states": hidden, "attention_mask": mask}
    result: Float32Array = session.run(None, feeds)[0]
    return result


def test_a_quantised_encoder_is_smaller_and_close(tmp_path: Path) -> None:
    shape = Shape(d_model=128, encoder_ffn=512, encoder_layers=3, encoder_heads=4)
    checkpoint = read_checkpoint(write_checkpoint(tmp_path, shape))
    onnx.save(build_frontend(checkpoint), tmp_path / "frontend.onnx")
    backend = build_backend(checkpoint)
    onnx.save(backend, tmp_path / "backend.onnx")
    quantize_backend(backend, tmp_path / "int8.onnx")
    assert (tmp_path / "int8.onnx").stat().st_size < (tmp_path / "backend.onnx").stat().st_size / 3
    exact, quantised = (
        Qwen3Encoder(tmp_path / "frontend.onnx", tmp_path / file, 800, OnnxOptions(threads=1))
        for file in ("backend.onnx", "int8.onnx")
    )
    clip = speechlike(150_000)
    a, b = exact.encode(clip), quantised.encode(clip)
    assert float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)) > 0.998


def test_windows_of_a_quantised_encoder_do_not_depend_on_each_other(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path))
    onnx.save(build_frontend(checkpoint), tmp_path / "frontend.onnx")
    quantize_backend(build_backend(checkpoint), tmp_path / "int8.onnx")
    encoder = Qwen3Encoder(
        tmp_path / "frontend.onnx", tmp_path / "int8.onnx", 800, OnnxOptions(threads=1)
    )
    hidden = np.random.default_rng(0).normal(size=(130, 32)).astype(np.float32)
    loud = np.concatenate([hidden[:104], 100 * hidden[104:]])
    assert np.array_equal(encoder.attend(hidden)[:104], encoder.attend(loud)[:104])


def test_positions_start_with_sines_and_end_with_cosines() -> None:
    rows = sinusoids(13, 8)
    assert rows.shape == (13, 8)
    assert rows[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    np.testing.assert_allclose(rows[5, [0, 3]], [np.sin(5), np.sin(5e-4)], rtol=1e-5)
    np.testing.assert_allclose(rows[5, [4, 7]], [np.cos(5), np.cos(5e-4)], rtol=1e-5)
