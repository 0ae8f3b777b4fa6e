"""ct-punc's published ONNX forms, and folders that cannot be used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper

from streamasr.core.errors import ConfigError, ModelError
from streamasr.importing.options import ImportOptions
from streamasr.importing.pack import import_model
from streamasr.importing.source import open_sources
from streamasr.models.bundle import open_bundle
from streamasr.models.ct_punc.punctuator import CTPunctuator
from streamasr.models.family import Role
from streamasr.models.onnx import OnnxOptions
from tests.sources.ct_punc import (
    MARKS,
    WORDS,
    Shape,
    random_weights,
    write_bundle,
    write_funasr_folder,
    write_graph,
    write_sherpa_folder,
)
from tests.support.errors import raises

SHAPE = Shape()
WEIGHTS = random_weights(SHAPE, len(WORDS), len(MARKS), 3)
TEXT = "今天天气很好 hello how are you 我们去公园吧" * 3


def classes(folder: Path) -> list[int]:
    punctuator = CTPunctuator.from_bundle(open_bundle(folder), OnnxOptions(threads=1))
    return [len(mark.text) for mark in punctuator.punctuate(TEXT).each]


@pytest.fixture
def expected(tmp_path: Path) -> list[int]:
    return classes(write_bundle(tmp_path / "ours", WEIGHTS))


def funasr(folder: Path) -> Path:
    return write_funasr_folder(folder, WEIGHTS, SHAPE)


def quantised(folder: Path) -> Path:
    return write_funasr_folder(folder, WEIGHTS, SHAPE, graph_name="model_quant.onnx")


def sherpa(folder: Path) -> Path:
    return write_sherpa_folder(folder, WEIGHTS, SHAPE)


@pytest.mark.parametrize("write", [funasr, quantised, sherpa], ids=lambda write: write.__name__)
def test_each_form_becomes_the_same_model(
    tmp_path: Path, expected: list[int], write: Callable[[Path], Path]
) -> None:
    source = write(tmp_path / "source")
    bundle = import_model(source, tmp_path / "made")
    assert bundle.family.role is Role.PUNCTUATION
    assert bundle.facts["marks"] == [*MARKS]
    assert bundle.facts["vocab"] == len(WORDS)
    assert bundle.languages == ("Chinese", "English")
    assert bundle.licence == "FunASR Model License"
    assert dict(bundle.precision) == {"encoder": "fp32"}
    assert json.loads((tmp_path / "made" / "tokens.json").read_text("utf-8")) == [*WORDS]
    assert classes(tmp_path / "made") == expected
    assert open_sources(next(source.glob("*.onnx"))).punctuation


def test_a_realtime_model_is_known_by_its_masks(tmp_path: Path) -> None:
    source = write_funasr_folder(tmp_path / "source", WEIGHTS, SHAPE, realtime=True)
    bundle = import_model(source, tmp_path / "made")
    assert bundle.facts["realtime"] is True
    assert len(classes(tmp_path / "made")) == 48


def test_a_vocabulary_of_any_length_is_read_from_the_metadata(tmp_path: Path) -> None:
    words = [*WORDS[:-1], *(f"字{number}" for number in range(20_000)), WORDS[-1]]
    weights = random_weights(SHAPE, len(words), len(MARKS), 3)
    source = write_sherpa_folder(tmp_path / "source", weights, SHAPE, words)
    assert import_model(source, tmp_path / "made").facts["vocab"] == len(words)


def test_a_model_directory_of_ours_is_copied(tmp_path: Path, expected: list[int]) -> None:
    import_model(tmp_path / "ours", tmp_path / "made")
    assert classes(tmp_path / "made") == expected


def test_the_best_precision_is_used_and_named(tmp_path: Path) -> None:
    folder = funasr(tmp_path / "source")
    model = onnx.load(folder / "model.onnx")
    for tensor in [*model.graph.initializer]:
        if tensor.name.endswith("weight"):
            tensor.name += "_quantized"
    zeros = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype("uint8"), "zero")
    model.graph.initializer.append(zeros)
    model.graph.node.append(helper.make_node("MatMulInteger", ["zero", "zero"], ["unused"]))
    onnx.save(model, folder / "model_quant.onnx")
    found = open_sources(folder)
    assert found.punctuation
    assert found.punctuation.path.name == "model.onnx"
    [note] = found.notes
    assert "model.onnx is used" in note


def test_a_recogniser_beside_it_is_the_model_that_the_folder_stands_for(
    tmp_path: Path, bundle: Path
) -> None:
    funasr(tmp_path / "all" / "punc")
    shutil.copytree(bundle, tmp_path / "all" / "tiny", ignore=shutil.ignore_patterns("aligner"))
    found = open_sources(tmp_path / "all")
    assert found.main is found.recogniser
    assert found.punctuation
    assert any("imported by its own path" in note for note in found.notes)


def test_options_for_other_models_are_refused(tmp_path: Path) -> None:
    source = funasr(tmp_path / "source")
    with raises(ConfigError, "encoder_fixed"):
        import_model(source, tmp_path / "made", ImportOptions(encoder="int8"))
    with raises(ConfigError, "decoder_absent"):
        import_model(source, tmp_path / "made", ImportOptions(decoder="q8_0"))


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def with_text(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (without("tokens.json"), "file_missing"),
        (without("config.yaml"), "file_missing"),
        (with_text("tokens.json", "[1]"), "tokens_invalid"),
        (with_text("tokens.json", "["), "json_invalid"),
        (with_text("tokens.json", '["a"]'), "tokens_invalid"),
        (with_text("config.yaml", "model: CTTransformer"), "punctuation_marks"),
        (with_text("config.yaml", "model_conf: {punc_list: [a, b]}"), "punctuation_marks"),
        (with_text("config.yaml", "punc_list: [，, 。, ？]"), "punctuation_classes"),
    ],
)
def test_a_damaged_folder_of_funasr_is_refused(
    tmp_path: Path, change: Callable[[Path], object], code: str
) -> None:
    folder = funasr(tmp_path / "source")
    change(folder)
    with raises(ModelError, code):
        open_sources(folder)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"tokens": ""}, "tokens_missing"),
        ({"tokens": "a|b"}, "tokens_count"),
        ({"tokens": "a|b", "vocab_size": "2"}, "tokens_invalid"),
        ({"punctuations": "a|b"}, "punctuation_marks"),
    ],
)
def test_damaged_metadata_of_sherpa_are_refused(
    tmp_path: Path, changes: dict[str, str], code: str
) -> None:
    known = {
        "tokens": "|".join(WORDS),
        "punctuations": "|".join(MARKS),
        "vocab_size": str(len(WORDS)),
    }
    metadata = {key: value for key, value in (known | changes).items() if value}
    folder = tmp_path / "source"
    folder.mkdir()
    write_graph(folder / "model.onnx", WEIGHTS, SHAPE, metadata=metadata)
    with raises(ModelError, code):
        open_sources(folder)


def test_external_weights_with_a_reserved_name_are_refused(tmp_path: Path) -> None:
    folder = sherpa(tmp_path / "source")
    model = onnx.load(folder / "model.onnx")
    onnx.save(
        model,
        folder / "model.onnx",
        save_as_external_data=True,
        location="tokens.json",
        size_threshold=0,
    )
    with raises(ModelError, "reserved_name"):
        open_sources(folder)


def test_external_weights_come_along(tmp_path: Path, expected: list[int]) -> None:
    folder = sherpa(tmp_path / "source")
    model = onnx.load(folder / "model.onnx")
    onnx.save(
        model,
        folder / "model.onnx",
        save_as_external_data=True,
        location="model.data",
        size_threshold=1000,
    )
    import_model(folder, tmp_path / "made")
    assert classes(tmp_path / "made") == expected
