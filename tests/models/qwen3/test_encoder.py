"""The encoder's two graphs: equal to the reference, and their windows independent."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamasr.core.errors import AudioError, ConfigError, ModelError
from streamasr.core.units import Float32Array
from streamasr.features.log_mel import log_mel
from streamasr.importing.qwen3.graphs import write_backend, write_frontend
from streamasr.importing.qwen3.safetensors_checkpoint import read_checkpoint
from streamasr.models.onnx import CPU, OnnxOptions, open_session
from streamasr.models.qwen3.encoder import MASKED, Qwen3Encoder
from streamasr.models.qwen3.names import BACKEND_FILE
from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.errors import raises
from tests.support.goldens import ENCODER_CLIPS, ENCODER_GOLDEN, ENCODER_SHAPES
from tests.support.parity import open_inside
from tests.support.rounding import assert_same
from tests.support.signals import speechlike

OPTIONS = OnnxOptions(threads=1)


def write_graphs(directory: Path, shape: Shape) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    checkpoint = read_checkpoint(write_checkpoint(directory / "checkpoint", shape))
    write_frontend(checkpoint, directory / "frontend.onnx")
    write_backend(checkpoint, directory / "backend.onnx")
    return onnx.load(directory / "frontend.onnx"), onnx.load(directory / "backend.onnx")


def save(directory: Path, frontend: onnx.ModelProto, backend: onnx.ModelProto) -> None:
    onnx.save(frontend, directory / "frontend.onnx")
    onnx.save(backend, directory / "backend.onnx")


def open_encoder(directory: Path, n_window_infer: int = 800) -> Qwen3Encoder:
    return Qwen3Encoder(
        directory / "frontend.onnx", directory / "backend.onnx", n_window_infer, OPTIONS
    )


@pytest.fixture
def encoder(tmp_path: Path) -> Qwen3Encoder:
    write_graphs(tmp_path, Shape())
    return open_encoder(tmp_path)


def cosine(a: Float32Array, b: Float32Array) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("name", ENCODER_SHAPES)
def test_every_stage_equals_the_reference(tmp_path: Path, name: str) -> None:
    shape = ENCODER_SHAPES[name]
    write_graphs(tmp_path, shape)
    encoder = open_encoder(tmp_path, shape.n_window_infer)
    inside = open_inside(tmp_path / "checkpoint", tmp_path / "inside.onnx")
    with np.load(ENCODER_GOLDEN) as golden:
        for n_samples in ENCODER_CLIPS:
            clip = f"{name}/{n_samples}"
            hidden = encoder.convolve(log_mel(speechlike(n_samples), shape.n_mels))
            assert_same(hidden, golden[f"{clip}/conv_output"], golden[f"{clip}/conv_output_error"])
            first = hidden[None, : encoder.window_tokens]
            mask = np.zeros((1, 1, first.shape[1], first.shape[1]), np.float32)
            output = inside.run("encoder_output", hidden_states=first, attention_mask=mask)[0]
            exact_output = golden[f"{clip}/encoder_output"][: len(output)]
            assert_same(output, exact_output, golden[f"{clip}/encoder_output_error"])
            embeddings = encoder.encode(speechlike(n_samples))
            error = golden[f"{clip}/embeddings_error"]
            assert_same(embeddings, golden[f"{clip}/embeddings"], error)


@pytest.mark.parametrize("n_frames", [1, 8, 9, 50, 99, 100, 101, 108, 109, 799, 800, 801, 1234])
def test_token_count_is_what_the_front_end_makes(encoder: Qwen3Encoder, n_frames: int) -> None:
    mel = np.zeros((n_frames, 128), np.float32)
    n_tokens = 13 * (n_frames // 100) + -(-(n_frames % 100) // 8)
    assert encoder.token_count(n_frames) == n_tokens
    assert encoder.convolve(mel).shape == (n_tokens, 32)


def test_a_complete_chunk_does_not_change_when_more_audio_follows(encoder: Qwen3Encoder) -> None:
    mel = log_mel(speechlike(64_000))
    whole = encoder.convolve(mel)
    np.testing.assert_allclose(encoder.convolve(mel[:200]), whole[:26], rtol=0, atol=1e-5)


def test_a_complete_window_does_not_change_when_more_audio_follows(encoder: Qwen3Encoder) -> None:
    hidden = encoder.convolve(log_mel(speechlike(160_000)))
    whole = encoder.attend(hidden)
    assert len(whole) == 130
    assert encoder.window_tokens == 104
    np.testing.assert_allclose(encoder.attend(hidden[:104]), whole[:104], rtol=0, atol=1e-5)
    np.testing.assert_allclose(encoder.attend(hidden[104:]), whole[104:], rtol=0, atol=1e-5)


def test_windows_of_unequal_length_can_share_a_batch_behind_a_mask(tmp_path: Path) -> None:
    write_graphs(tmp_path, Shape())
    encoder = open_encoder(tmp_path)
    hidden = encoder.convolve(log_mel(speechlike(160_000)))
    backend = open_session(
        tmp_path / "backend.onnx",
        OPTIONS,
        inputs={"hidden_states": 3, "attention_mask": 4},
        outputs={"last_hidden_state": 3},
    )
    batch = np.zeros((2, 104, 32), np.float32)
    batch[0], batch[1, :26] = hidden[:104], hidden[104:]
    mask = np.zeros((2, 1, 104, 104), np.float32)
    mask[1, :, :, 26:] = MASKED
    result = backend.run("last_hidden_state", hidden_states=batch, attention_mask=mask)
    assert np.isfinite(result).all()
    expected = encoder.attend(hidden)
    np.testing.assert_allclose(result[0], expected[:104], rtol=0, atol=1e-4)
    np.testing.assert_allclose(result[1, :26], expected[104:], rtol=0, atol=1e-4)


def test_a_front_end_that_takes_one_chunk_at_a_time_gives_the_same(tmp_path: Path) -> None:
    frontend, backend = write_graphs(tmp_path, Shape())
    expected = open_encoder(tmp_path).encode(speechlike(50_000))
    for value in (*frontend.graph.input, *frontend.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    save(tmp_path, frontend, backend)
    result = open_encoder(tmp_path).encode(speechlike(50_000))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4)


def test_a_front_end_that_takes_three_chunks_at_a_time_is_refused(tmp_path: Path) -> None:
    frontend, backend = write_graphs(tmp_path, Shape())
    frontend.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    save(tmp_path, frontend, backend)
    with raises(ModelError, "chunk_batch"):
        open_encoder(tmp_path)


def test_graphs_with_float16_inputs_and_outputs_run(tmp_path: Path) -> None:
    frontend, backend = write_graphs(tmp_path, Shape())
    expected = open_encoder(tmp_path).encode(speechlike(50_000))
    save(tmp_path, behind_float16(frontend), behind_float16(backend))
    result = open_encoder(tmp_path).encode(speechlike(50_000))
    assert result.dtype == np.float32
    assert cosine(result, expected) > 0.9999


def behind_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rename what comes in and goes out, and put casts between."""
    graph = model.graph
    inputs = {value.name for value in graph.input}
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        for names, renamed in ((node.input, inputs), (node.output, outputs)):
            for index, name in enumerate(names):
                if name in renamed:
                    names[index] = f"{name}_32"
    before = [
        helper.make_node("Cast", [name], [f"{name}_32"], to=TensorProto.FLOAT) for name in inputs
    ]
    after = [
        helper.make_node("Cast", [f"{name}_32"], [name], to=TensorProto.FLOAT16) for name in outputs
    ]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def test_nan_samples_are_refused(encoder: Qwen3Encoder) -> None:
    with raises(AudioError, "audio_not_finite"):
        encoder.encode(np.full(16_000, np.nan, np.float32))


def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with raises(ModelError, "model_file_missing"):
        open_encoder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x08" * 100])
def test_a_broken_graph_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    write_graphs(tmp_path, Shape())
    (tmp_path / "backend.onnx").write_bytes(content)
    with raises(ModelError, "graph_unloadable") as raised:
        open_encoder(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_truncated_graph_is_refused(tmp_path: Path) -> None:
    write_graphs(tmp_path, Shape())
    path = tmp_path / "backend.onnx"
    path.write_bytes(path.read_bytes()[:-1000])
    with raises(ModelError, "graph_unloadable"):
        open_encoder(tmp_path)


def test_graphs_in_each_others_place_are_refused(tmp_path: Path) -> None:
    frontend, backend = write_graphs(tmp_path, Shape())
    save(tmp_path, backend, frontend)
    with raises(ModelError, "graph_inputs"):
        open_encoder(tmp_path)


def test_graphs_of_two_encoders_are_refused(tmp_path: Path) -> None:
    frontend, _ = write_graphs(tmp_path, Shape())
    (tmp_path / "other").mkdir()
    _, backend = write_graphs(tmp_path / "other", Shape(d_model=48))
    save(tmp_path, frontend, backend)
    with raises(ModelError, "graphs_do_not_fit"):
        open_encoder(tmp_path)


def test_a_graph_of_truth_values_is_refused(tmp_path: Path) -> None:
    frontend, backend = write_graphs(tmp_path, Shape())
    cast = helper.make_node("Cast", ["chunk_bool"], ["chunk_mel"], to=TensorProto.FLOAT)
    frontend.graph.node.insert(0, cast)
    frontend.graph.input[0].name = "chunk_bool"
    frontend.graph.input[0].type.tensor_type.elem_type = TensorProto.BOOL
    save(tmp_path, frontend, backend)
    with raises(ModelError, "graph_types"):
        open_encoder(tmp_path)


def test_a_provider_that_onnxruntime_has_never_heard_of_is_refused(tmp_path: Path) -> None:
    write_graphs(tmp_path, Shape())
    with raises(ModelError, "unknown_provider"):
        Qwen3Encoder(
            tmp_path / "frontend.onnx",
            tmp_path / "backend.onnx",
            800,
            OnnxOptions(providers=("CudaProvider",)),
        )


def test_a_provider_that_this_build_lacks_gives_way_to_the_cpu(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = Qwen3Encoder.from_bundle(bundle, OPTIONS).encode(speechlike(20_000))
    options = OnnxOptions(providers=("CUDAExecutionProvider",), threads=1)
    encoder = Qwen3Encoder.from_bundle(bundle, options)
    assert encoder.providers == (CPU,)
    np.testing.assert_array_equal(encoder.encode(speechlike(20_000)), expected)
    assert "has no CUDAExecutionProvider, so the next provider or the CPU is used" in caplog.text


def test_widths_that_a_graph_does_not_state_are_found_out(tmp_path: Path) -> None:
    frontend, backend = write_graphs(tmp_path, Shape())
    stated = open_encoder(tmp_path)
    for value in (frontend.graph.output[0], backend.graph.input[0], backend.graph.output[0]):
        value.type.tensor_type.shape.dim[2].dim_param = "whatever"
    save(tmp_path, frontend, backend)
    found = open_encoder(tmp_path)
    assert (found.d_model, found.output_dim) == (stated.d_model, stated.output_dim)
    np.testing.assert_array_equal(found.encode(speechlike(9000)), stated.encode(speechlike(9000)))


def test_graphs_of_two_encoders_that_state_no_widths_are_refused(tmp_path: Path) -> None:
    frontend, _ = write_graphs(tmp_path, Shape())
    (tmp_path / "other").mkdir()
    _, backend = write_graphs(tmp_path / "other", Shape(d_model=48))
    backend.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "whatever"
    backend.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "whatever"
    save(tmp_path, frontend, backend)
    with raises(ModelError, "graph_does_not_run"):
        open_encoder(tmp_path)


@pytest.mark.parametrize(
    ("weights", "code"),
    [(np.nan, "encoder_not_finite"), (0.0, "encoder_constant")],
    ids=["nan", "zero"],
)
def test_an_encoder_that_computes_nonsense_is_refused(
    bundle: Path, tmp_path: Path, weights: float, code: str
) -> None:
    # A copy, since onnx refuses weights in a file with several names, as an installer may give it.
    for path in (bundle / "model.json", *bundle.glob("encoder_*")):
        shutil.copy(path, tmp_path)
    backend = onnx.load(tmp_path / BACKEND_FILE)
    for weight in backend.graph.initializer:
        if "linear_2" in weight.name:
            values = np.full_like(numpy_helper.to_array(weight), weights)
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(backend, tmp_path / BACKEND_FILE)
    with raises(ModelError, code):
        Qwen3Encoder.from_bundle(tmp_path, OPTIONS)


@pytest.mark.parametrize("n_window_infer", [0, 50, 150])
def test_a_window_that_is_not_a_multiple_of_a_chunk_is_refused(
    tmp_path: Path, n_window_infer: int
) -> None:
    write_graphs(tmp_path, Shape())
    with raises(ModelError, "window_not_in_chunks"):
        open_encoder(tmp_path, n_window_infer)


@pytest.mark.parametrize("shape", [(None, 128, 0), (None, 0, 100), (0, 128, 100)])
def test_a_front_end_of_empty_chunks_is_refused(
    tmp_path: Path, shape: tuple[int | None, int, int]
) -> None:
    write_graphs(tmp_path, Shape())
    frontend = onnx.load(tmp_path / "frontend.onnx")
    stated = frontend.graph.input[0].type.tensor_type.shape
    for axis, length in zip(stated.dim, shape, strict=True):
        if length is not None:
            axis.dim_value = length
    onnx.save(frontend, tmp_path / "frontend.onnx")
    with pytest.raises(ModelError) as caught:
        open_encoder(tmp_path)
    assert "frontend.onnx" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"n_window_infer": "long"}',
        '{"n_window_infer": true}',
        '{"n_window_infer": NaN}',
        '{"n_window_infer": 1e999}',
        '{"n_window_infer": 1' + 400 * "0" + "}",
        '{"n_window_infer": 1' + 5000 * "0" + "}",
        100_000 * "[",
    ],
    ids=lambda text: text[:30],
)
def test_a_bundle_that_does_not_state_its_window_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        Qwen3Encoder.from_bundle(tmp_path)
    assert caught.value.code in {"window_unreadable", "window_out_of_range"}
    assert "model.json: " in str(caught.value)


@pytest.mark.parametrize("window_s", [1, 2, 4, 8])
def test_windows_may_be_shorter_than_the_bundle_s(bundle: Path, window_s: int) -> None:
    encoder = Qwen3Encoder.from_bundle(bundle, OPTIONS, window_s=window_s)
    assert encoder.window_tokens == 13 * window_s
    hidden = encoder.convolve(log_mel(speechlike(window_s * 16_000 + 8000)))
    whole, first = encoder.attend(hidden), encoder.attend(hidden[: encoder.window_tokens])
    assert len(whole) == 13 * window_s + 7
    np.testing.assert_allclose(whole[: 13 * window_s], first, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window_s", [-1, 0, 3, 5, 16])
def test_windows_that_the_bundle_s_cannot_be_cut_into_are_refused(
    bundle: Path, window_s: int
) -> None:
    with raises(ConfigError, "encoder_window"):
        Qwen3Encoder.from_bundle(bundle, OPTIONS, window_s=window_s)
