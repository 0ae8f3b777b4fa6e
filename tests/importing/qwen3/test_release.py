"""Releases of ONNX graphs with a GGUF: parts are combined by their content, not by their names."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import gguf
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.errors import ModelError
from streamasr.core.units import Float32Array
from streamasr.importing.gguf_file import GGUFTensor
from streamasr.importing.qwen3 import gguf_text as module
from streamasr.importing.qwen3.release import OnnxRelease, read_releases
from streamasr.models.qwen3.names import ALIGNER, RECOGNISER
from tests.sources.onnx_graphs import Precision
from tests.sources.onnx_release import DecoderType, write_onnx_release
from tests.support.checkpoints import Shape, random_tensors, write_checkpoint
from tests.support.errors import raises

SMALL = Shape(ffn=256, hidden=256)
LARGE = Shape(d_model=48, hidden=512, ffn=256)
ALIGNING = Shape(d_model=48, hidden=256, ffn=256, n_classes=50, tied=False)
SHAPES = {"small": SMALL, "large": LARGE, "aligning": ALIGNING}
"""Proportions of the released models: the small recogniser has the same decoder width as the
aligner and a narrower encoder; the large recogniser has the same encoder width as the aligner and a
wider decoder."""

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int4")
BITS = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("checkpoints")
    return {name: write_checkpoint(directory / name, shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path]) -> Path:
    """Write a release in fp16 and q8_0; tests copy it before they change anything."""
    directory = tmp_path_factory.mktemp("small") / "release"
    return write_onnx_release(checkpoints["small"], directory, "fp16", "q8_0")


def only(directory: Path) -> OnnxRelease:
    [release] = read_releases(directory)
    return release


def paths(release: OnnxRelease) -> tuple[str, str, str]:
    return release.frontend.name, release.backend.name, release.decoder.name


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("infix", [True, False])
def test_a_release_is_read_in_every_precision_and_naming(
    tmp_path: Path, checkpoints: dict[str, Path], precision: Precision, *, infix: bool
) -> None:
    write_onnx_release(checkpoints["small"], tmp_path / "r", precision, "f16", infix=infix)
    release = only(tmp_path / "r")
    assert (release.family, release.name) == (RECOGNISER, "r")
    assert (release.precision, release.encoder_bits) == (precision, BITS[precision])
    assert (release.n_mels, release.chunk_frames) == (128, 100)
    assert (release.d_model, release.hidden, release.vocab) == (32, 256, 320)
    assert (release.n_classes, release.classifier, release.data_files) == (None, None, ())


def test_names_are_irrelevant(tmp_path: Path, small: Path) -> None:
    directory = shutil.copytree(small, tmp_path / "r")
    expected = only(directory)
    renamed = {
        expected.frontend: "qwen3_aligner_encoder_backend.int4.onnx",
        expected.backend: "qwen3_aligner_encoder_frontend.fp32.onnx",
        expected.decoder: "weights.bin",
    }
    for path, name in renamed.items():
        path.rename(directory / f"{name}.new")
    for name in renamed.values():
        (directory / f"{name}.new").rename(directory / name)
    release = only(directory)
    assert paths(release) == tuple(renamed.values())
    assert (release.family, release.precision) == (RECOGNISER, "fp16")


@pytest.mark.parametrize("decoder", ["f16", "q8_0", "q4_k"])
def test_an_aligner_is_identified_by_the_padding_of_its_head(
    tmp_path: Path, checkpoints: dict[str, Path], decoder: DecoderType
) -> None:
    release = only(write_onnx_release(checkpoints["aligning"], tmp_path, "int8", decoder))
    assert (release.family, release.n_classes, release.vocab) == (ALIGNER, 50, 320)
    classifier = release.classifier
    assert classifier is not None
    expected = random_tensors(ALIGNING, seed=0)["head.weight"]
    assert classifier.dtype == (np.float16 if decoder == "f16" else np.float32)
    np.testing.assert_allclose(classifier, expected, rtol=0, atol=2e-2)


@pytest.mark.parametrize("recogniser", ["small", "large"])
def test_a_recogniser_and_an_aligner_may_share_a_folder_under_any_names(
    tmp_path: Path, checkpoints: dict[str, Path], recogniser: str
) -> None:
    folders = {name: tmp_path / name for name in (recogniser, "aligning")}
    for name, folder in folders.items():
        write_onnx_release(checkpoints[name], folder, "int8", "q8_0")
    expected = {name: only(folder) for name, folder in folders.items()}
    both = tmp_path / "both"
    both.mkdir()
    files = sorted(path for folder in folders.values() for path in folder.iterdir())
    new_names = {path: f"{number}{path.suffix}" for number, path in enumerate(files)}
    for path, new_name in new_names.items():
        shutil.copy(path, both / new_name)
    found = {release.family: release for release in read_releases(both)}
    assert found.keys() == {RECOGNISER, ALIGNER}
    for release in expected.values():
        renamed = [new_names[p] for p in (release.frontend, release.backend, release.decoder)]
        assert paths(found[release.family]) == tuple(renamed)


def test_all_released_models_may_share_one_folder(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    for name, checkpoint in checkpoints.items():
        write_onnx_release(checkpoint, tmp_path / name, "int8", "q8_0")
        for path in (tmp_path / name).iterdir():
            (tmp_path / "all").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / "all" / f"{name}.{path.name}")
    releases = read_releases(tmp_path / "all")
    assert sorted((r.family, r.hidden, r.d_model) for r in releases) == [
        (RECOGNISER, 256, 32),
        (RECOGNISER, 512, 48),
        (ALIGNER, 256, 48),
    ]
    for release in releases:
        assert len({name.split(".")[0] for name in paths(release)}) == 1


def test_names_decide_if_all_other_criteria_are_equal(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    twin = Shape(d_model=48, hidden=256, ffn=256)
    write_onnx_release(write_checkpoint(tmp_path / "c", twin), tmp_path / "r", "int8", "q8_0")
    write_onnx_release(checkpoints["aligning"], tmp_path / "r", "fp16", "q8_0")
    found = {release.family: release for release in read_releases(tmp_path / "r")}
    assert all("qwen3_asr" in name for name in paths(found[RECOGNISER]))
    assert all("qwen3_aligner" in name for name in paths(found[ALIGNER]))
    for number, path in enumerate(sorted((tmp_path / "r").iterdir())):
        path.rename(tmp_path / "r" / f"{number}{path.suffix}")
    with raises(ModelError, "ambiguous_parts"):
        read_releases(tmp_path / "r")


@pytest.mark.parametrize(("own", "other"), [("small", "aligning"), ("aligning", "small")])
def test_an_encoder_with_the_name_of_the_other_family_is_refused(
    tmp_path: Path, checkpoints: dict[str, Path], own: str, other: str
) -> None:
    releases = {
        name: only(write_onnx_release(checkpoints[name], tmp_path / name, "int8", "q8_0"))
        for name in (own, other)
    }
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in (releases[own].decoder, releases[other].frontend, releases[other].backend):
        shutil.copy(path, mixed)
    word = "recogniser" if own == "small" else "aligner"
    with raises(ModelError, "encoder_of_other_family") as caught:
        read_releases(mixed)
    assert f"{mixed} has no encoder of the {word}: qwen3_" in str(caught.value)


def test_a_front_end_with_the_name_of_the_other_family_is_refused(
    tmp_path: Path, small: Path
) -> None:
    directory = shutil.copytree(small, tmp_path / "r")
    path = only(directory).frontend
    path.rename(directory / "qwen3_aligner_encoder_frontend.onnx")
    with raises(ModelError, "encoder_of_other_family") as caught:
        read_releases(directory)
    assert "has no encoder of the recogniser: " in str(caught.value)


@pytest.fixture(scope="module")
def released_widths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OnnxRelease]:
    """Write models of one layer with the widths of Qwen3-ASR-0.6B and Qwen3-ForcedAligner-0.6B."""
    directory = tmp_path_factory.mktemp("widths")
    thin = Shape(encoder_layers=1, encoder_ffn=32, layers=1, hidden=1024, ffn=256, heads=2)
    shapes = {
        "asr": replace(thin, d_model=896),
        "aligner": replace(thin, d_model=1024, n_classes=50),
    }
    return {
        name: only(
            write_onnx_release(
                write_checkpoint(directory / f"{name}-c", shape), directory / name, "fp16"
            )
        )
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize(("own", "other"), [("asr", "aligner"), ("aligner", "asr")])
def test_released_widths_identify_the_family_of_an_encoder_under_any_names(
    tmp_path: Path, released_widths: dict[str, OnnxRelease], own: str, other: str
) -> None:
    shutil.copy(released_widths[own].decoder, tmp_path / "0.gguf")
    for number, role in enumerate(("frontend", "backend")):
        shutil.copy(getattr(released_widths[other], role), tmp_path / f"{number}.onnx")
    with raises(ModelError, "encoder_of_other_family"):
        read_releases(tmp_path)
    # With the other model's decoder in the folder, the graphs belong to that.
    shutil.copy(released_widths[other].decoder, tmp_path / "1.gguf")
    assert only(tmp_path).family == released_widths[other].family
    for number, role in enumerate(("frontend", "backend")):
        shutil.copy(getattr(released_widths[own], role), tmp_path / f"{number + 2}.onnx")
    both = {release.family: release.d_model for release in read_releases(tmp_path)}
    assert both == {RECOGNISER: 896, ALIGNER: 1024}


def test_of_several_precisions_the_best_encoder_and_the_8_bit_decoder_are_used(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    decoders: tuple[DecoderType, ...] = ("f16", "q4_k", "q8_0", "q5_k")
    for precision, decoder in zip(("int4", "fp16", "int8", "int4"), decoders, strict=True):
        write_onnx_release(checkpoints["small"], tmp_path, cast("Precision", precision), decoder)
    release = only(tmp_path)
    assert (release.precision, release.encoder_bits) == ("fp16", 16)
    assert [name.split(".")[-2] for name in paths(release)] == ["fp16", "fp16", "q8_0"]
    release.decoder.unlink()
    assert only(tmp_path).decoder.name == "qwen3_asr_llm.f16.gguf"
    (tmp_path / "qwen3_asr_llm.f16.gguf").unlink()
    assert only(tmp_path).decoder.name == "qwen3_asr_llm.q5_k.gguf"


def test_two_equal_graphs_are_refused(tmp_path: Path, small: Path) -> None:
    directory = shutil.copytree(small, tmp_path / "r")
    backend = only(directory).backend
    shutil.copy(backend, directory / "copy.onnx")
    with raises(ModelError, "ambiguous_parts") as caught:
        read_releases(directory)
    assert "copy.onnx and " in str(caught.value)


def test_releases_are_found_in_subfolders(tmp_path: Path, small: Path) -> None:
    shutil.copytree(small, tmp_path / "outer" / "Qwen3-ASR-0.6B")
    shutil.copytree(small, tmp_path / "outer" / ".hidden")
    assert only(tmp_path / "outer").name == "Qwen3-ASR-0.6B"


def test_other_files_are_ignored(tmp_path: Path, small: Path) -> None:
    directory = shutil.copytree(small, tmp_path / "r")
    (directory / "README.md").write_text("# hello")
    (directory / "mel_filters.npy").write_bytes(bytes(100))
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "vad", [value], [result])
    onnx.save(onnx.helper.make_model(graph), directory / "vad.onnx")
    writer = gguf.GGUFWriter(directory / "other.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    assert only(directory) == only(directory)


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        (("frontend",), ("back end", "decoder")),
        (("backend",), ("front end", "decoder")),
        (("frontend", "backend"), ("decoder",)),
        (("frontend", "decoder"), ("back end",)),
        (("backend", "decoder"), ("front end",)),
    ],
)
def test_the_missing_parts_of_an_incomplete_release_are_named(
    tmp_path: Path, small: Path, present: tuple[str, ...], missing: tuple[str, ...]
) -> None:
    release = only(small)
    for role in present:
        shutil.copy(getattr(release, role), tmp_path)
    with raises(ModelError, "model_parts_missing") as caught:
        read_releases(tmp_path)
    parts = ("front end", "back end", "decoder")
    named = tuple(part for part in parts if f"{part} (" in str(caught.value))
    assert named == missing


def test_a_folder_without_any_part_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with raises(ModelError, "no_encoder_graphs"):
        read_releases(tmp_path)


@pytest.mark.parametrize("role", ["frontend", "backend", "decoder"])
def test_parts_of_different_models_are_refused(
    tmp_path: Path, small: Path, checkpoints: dict[str, Path], role: str
) -> None:
    directory = shutil.copytree(small, tmp_path / "r")
    other = only(write_onnx_release(checkpoints["large"], tmp_path / "o", "fp16", "q8_0"))
    shutil.copy(getattr(other, role), getattr(only(directory), role))
    with raises(ModelError, "model_parts_differ") as caught:
        read_releases(directory)
    assert {"48", "512"} & set(re.findall(r"\d+", str(caught.value)))


def test_a_text_model_is_not_accepted_as_a_decoder(tmp_path: Path, small: Path) -> None:
    directory = shutil.copytree(small, tmp_path / "r")
    path = only(directory).decoder
    path.write_bytes(path.read_bytes().replace(b"<|audio_start|>", b"<|radio_start|>"))
    with raises(ModelError, "model_parts_missing") as caught:
        read_releases(directory)
    assert "lacks the decoder " in str(caught.value)
    assert "is a language model for text" in str(caught.value)


def change_metadata(path: Path, name: str, values: list[object]) -> None:
    """Overwrite a number in a GGUF's header, or an array of them."""
    field = gguf.GGUFReader(path, "r+").fields[name]
    for index, value in zip(field.data, values, strict=True):
        part: Any = field.parts[index]
        part[:] = value
        part.flush()


@pytest.mark.parametrize(
    ("name", "values", "error"),
    [
        ("block_count", [100_000], ("layer_count", "block_count is 100000, ")),
        ("attention.layer_norm_rms_epsilon", [-1], ("metadata_value", "rms_epsilon ")),
        ("rope.freq_base", [0], ("metadata_value", "freq_base ")),
        ("rope.dimension_sections", [0] * 4, ("setting_unsupported", "sections = [0, 0, 0, 0] ")),
        ("attention.head_count_kv", [3], ("decoder_heads", "4 heads cannot share 3 ")),
    ],
)
def test_a_decoder_that_llama_cpp_cannot_run_is_refused(
    tmp_path: Path, small: Path, name: str, values: list[object], error: tuple[str, str]
) -> None:
    code, value = error
    directory = shutil.copytree(small, tmp_path / "r")
    change_metadata(only(directory).decoder, f"qwen3vl.{name}", values)
    with raises(ModelError, code) as caught:
        read_releases(directory)
    assert value in str(caught.value)


def test_a_decoder_with_a_duplicate_token_is_refused(tmp_path: Path, small: Path) -> None:
    directory = shutil.copytree(small, tmp_path / "r")
    path = only(directory).decoder
    path.write_bytes(path.read_bytes().replace(b"[PAD300]", b"[PAD301]"))
    with raises(ModelError, "token_duplicate") as caught:
        read_releases(directory)
    assert "'[PAD301]'" in str(caught.value)


@pytest.mark.parametrize("role", ["frontend", "backend", "decoder"])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, small: Path, role: str) -> None:
    directory = shutil.copytree(small, tmp_path / "r")
    path: Path = getattr(only(directory), role)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=path.name) as caught:
        read_releases(directory)
    assert caught.value.code in {"file_cut_short", "graph_damaged"}


def test_external_weights_of_a_graph_belong_to_the_release(tmp_path: Path, small: Path) -> None:
    directory = shutil.copytree(small, tmp_path / "r")
    path = only(directory).backend
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin")
    release = only(directory)
    assert release.data_files == (directory / "weights.bin",)
    assert release.precision == "fp16"
    (directory / "weights.bin").unlink()
    with raises(ModelError, "external_data_missing") as caught:
        read_releases(directory)
    assert "weights.bin" in str(caught.value)


@pytest.mark.parametrize("name", ["model.json", "Model.JSON", "decoder.gguf", "classifier.npy"])
def test_external_weights_must_not_have_a_reserved_name(
    tmp_path: Path, small: Path, name: str
) -> None:
    directory = shutil.copytree(small, tmp_path / "r")
    path = only(directory).backend
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=name)
    with raises(ModelError, "reserved_name"):
        read_releases(directory)


def test_outputs_need_not_state_their_widths(tmp_path: Path, small: Path) -> None:
    directory = shutil.copytree(small, tmp_path / "r")
    expected = only(directory)
    for path in (expected.frontend, expected.backend):
        model = onnx.load(path)
        model.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "width"
        onnx.save(model, path)
    assert only(directory) == expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_unstated_widths_are_inferred_from_the_weights(
    tmp_path: Path, checkpoints: dict[str, Path], precision: Precision
) -> None:
    """Use a recogniser's back end with the input width of the aligner's, and with more bits."""
    write_onnx_release(checkpoints["large"], tmp_path, "fp32", "q8_0")
    write_onnx_release(checkpoints["aligning"], tmp_path, precision, "q8_0")
    for number, path in enumerate(sorted(tmp_path.glob("*backend*.onnx"))):
        model = onnx.load(path)
        model.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "width"
        onnx.save(model, tmp_path / f"{number}.onnx")
        path.unlink()
    found = {release.family: release for release in read_releases(tmp_path)}
    assert found[RECOGNISER].backend.name == "1.onnx"
    assert found[ALIGNER].backend.name == "0.onnx"


def test_inputs_must_state_their_widths(tmp_path: Path, small: Path) -> None:
    for role, name in (("frontend", "chunk_mel"), ("backend", "hidden_states")):
        directory = shutil.copytree(small, tmp_path / role)
        path = getattr(only(directory), role)
        model = onnx.load(path)
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "any"
        onnx.save(model, path)
        with raises(ModelError, "graph_axes_dynamic") as caught:
            read_releases(directory)
        assert name in str(caught.value)


@dataclass(frozen=True, slots=True)
class Head:
    """Output matrix in memory."""

    values: Float32Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def stored(self) -> npt.NDArray[Any]:
        return self.values

    def rows(self, begin: int, end: int) -> Float32Array:
        return self.values[begin:end]


def count_classes(values: Float32Array) -> int | None:
    return module.count_classes(cast("GGUFTensor", Head(values)))


def sizes() -> Iterator[tuple[int, int]]:
    step = module._ROW_STEP
    for n_rows in (step - 1, step, step + 1, 3 * step + 7):
        for n_pads in (2, 3, step - 1, step, step + 1):
            if n_pads < n_rows:
                yield n_rows, n_pads


@pytest.mark.parametrize(("n_rows", "n_pads"), [*sizes()])
def test_classes_are_counted_around_the_boundaries_of_steps(n_rows: int, n_pads: int) -> None:
    values = np.zeros((n_rows, 4), np.float32)
    values[:, 0] = np.arange(n_rows)
    values[n_rows - n_pads :] = -100
    assert count_classes(values) == n_rows - n_pads


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 3))
def test_any_classes_are_counted(n_classes: int, n_pads: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(n_classes, 8)).astype(np.float32)
    values[0] = -100  # a class may look like the padding
    padded = np.concatenate([values, np.full((n_pads, 8), -100, np.float32)])
    expected = n_classes if n_pads >= 2 and n_classes > 1 else None
    assert count_classes(padded) == expected


@pytest.mark.parametrize("filling", [0.0, 1.0])
def test_the_padding_of_a_recognisers_vocabulary_is_not_mistaken_for_an_aligners(
    filling: float,
) -> None:
    values = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    values[10:] = filling
    assert count_classes(values) is None
