"""ct-punc's published ONNX forms, and folders that cannot be used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from streamasr.core.errors import ConfigError, ModelError
from streamasr.importing.options import EncoderWidth, ImportOptions
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
    Weights,
    random_weights,
    write_bundle,
    write_config,
    write_funasr_folder,
    write_graph,
    write_original,
    write_sherpa_folder,
)
from tests.sources.foreign import truncate
from tests.sources.onnx_release import pack
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


def original(folder: Path) -> Path:
    return write_original(folder, WEIGHTS, SHAPE)


WRITERS = [funasr, quantised, sherpa, original]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
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
    for name in ("model.onnx", "model_quant.onnx", "model.pt"):
        if (source / name).exists():
            assert open_sources(source / name).punctuation


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_zips_are_imported(
    tmp_path: Path, expected: list[int], write: Callable[[Path], Path]
) -> None:
    archive = pack(write(tmp_path / "source"), tmp_path / "source.zip", "some/folder")
    import_model(archive, tmp_path / "made")
    assert classes(tmp_path / "made") == expected


def test_marks_in_ascii_are_those_of_chinese(tmp_path: Path, expected: list[int]) -> None:
    ascii_marks = ("<unk>", "_", ",", "。", "?", "、")
    for write in (funasr, original):
        source = write(tmp_path / write.__name__)
        write_config(source, SHAPE, ascii_marks)
        bundle = import_model(source, tmp_path / f"made-{write.__name__}")
        assert bundle.facts["marks"] == [*MARKS]
        assert classes(bundle.directory) == expected


@pytest.mark.parametrize(("encoder", "bits"), [("fp32", 32), ("fp16", 16), ("int8", 8)], ids=str)
def test_a_checkpoint_is_written_in_any_precision(
    tmp_path: Path, expected: list[int], encoder: EncoderWidth, bits: int
) -> None:
    source = original(tmp_path / "source")
    bundle = import_model(source, tmp_path / "made", ImportOptions(encoder=encoder))
    assert dict(bundle.precision) == {"encoder": encoder}
    assert bundle.encoder_bits == bits
    found = classes(tmp_path / "made")
    assert len(found) == len(expected)
    if encoder != "int8":
        assert found == expected


def without_tensor(name: str) -> Weights:
    return {key: value for key, value in WEIGHTS.items() if key != name}


def with_shape(name: str, *shape: int) -> Weights:
    return {**WEIGHTS, name: np.zeros(shape, np.float32)}


ATTENTION = "encoder.encoders0.0.self_attn"


@pytest.mark.parametrize(
    ("weights", "code"),
    [
        (without_tensor("embed.weight"), "tensor_missing"),
        (without_tensor("decoder.bias"), "tensor_missing"),
        (without_tensor(f"{ATTENTION}.linear_out.weight"), "tensor_missing"),
        (without_tensor("encoder.encoders.0.norm2.weight"), "tensor_missing"),
        (with_shape("embed.weight", 16), "tensor_shape"),
        (with_shape("embed.weight", len(WORDS), 3), "tensor_shape"),
        (with_shape("decoder.weight", 5, 16), "tensor_shape"),
        (with_shape("encoder.after_norm.bias", 0), "tensor_shape"),
        (with_shape("embed.weight", len(WORDS) + 1, 16), "tokens_count"),
    ],
)
def test_checkpoints_whose_tensors_do_not_fit_are_refused(
    tmp_path: Path, weights: Weights, code: str
) -> None:
    folder = write_original(tmp_path / "source", weights, SHAPE)
    with raises(ModelError, code):
        open_sources(folder)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("model: CTTransformer", "model: CTTransformerStreaming", "punctuation_realtime"),
        ("encoder: SANMEncoder", "encoder: ConformerEncoder", "setting_unsupported"),
        ("normalize_before: true", "normalize_before: false", "setting_unsupported"),
        ("sanm_shfit: 0", "sanm_shfit: 5", "setting_unsupported"),
        ("attention_heads: 4", "attention_heads: 5", "tensor_shape"),
        ("attention_heads: 4", "attention_heads: many", "json_value"),
        ("        - 、", "", "tensor_shape"),
    ],
)
def test_checkpoints_with_unsuitable_settings_are_refused(
    tmp_path: Path, old: str, new: str, code: str
) -> None:
    folder = original(tmp_path / "source")
    content = (folder / "config.yaml").read_text("utf-8")
    assert old in content
    (folder / "config.yaml").write_text(content.replace(old, new), "utf-8")
    with raises(ModelError, code):
        open_sources(folder)


def test_a_damaged_or_renamed_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = original(tmp_path / "source")
    (folder / "model.pt").rename(folder / "model.pt.best")
    with raises(ModelError, "ambiguous_parts"):
        open_sources(folder)
    (folder / "model.pt.best").rename(folder / "model.pt")
    truncate(folder / "model.pt", 0.5)
    with raises(ModelError, "torch_damaged"):
        open_sources(folder)


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
        (with_text("tokens.json", r'["<unk>", "\ud83d"]'), "tokens_invalid"),
        (with_text("config.yaml", r'punc_list: [，, 。, ？, "\ud83d"]'), "punctuation_marks"),
        (with_text("config.yaml", f"punc_list: [0x{'f' * 20_000}]"), "yaml_invalid"),
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
