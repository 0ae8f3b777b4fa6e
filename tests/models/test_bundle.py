"""Model directories and their `model.json`."""

import json
from pathlib import Path
from typing import Any

import pytest

from streamasr.core.errors import ModelError
from streamasr.models.bundle import Bundle, StoredFile, open_bundle, read_bundle
from streamasr.models.family import Role
from streamasr.models.qwen3.names import ALIGNER, RECOGNISER
from tests.support.errors import raises

GOOD = {"format": "streamasr-bundle", "version": 1, "family": RECOGNISER, "name": "mine"}


def write(directory: Path, **changes: object) -> Path:
    facts = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    (directory / "model.json").write_text(json.dumps(facts))
    return directory


def test_a_description_is_read(tmp_path: Path) -> None:
    bundle = read_bundle(write(tmp_path, n_window=50), Role.RECOGNISER)
    assert bundle.name == "mine"
    assert bundle.facts["n_window"] == 50
    assert bundle.decoder == tmp_path / "decoder.gguf"
    assert bundle.aligner is None
    (tmp_path / "aligner").mkdir()
    assert bundle.aligner == tmp_path / "aligner"


def test_a_model_without_a_name_is_called_like_its_directory(tmp_path: Path) -> None:
    assert read_bundle(write(tmp_path, name=None), Role.RECOGNISER).name == tmp_path.name


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"format": "other"}, "not_a_bundle"),
        ({"format": None}, "not_a_bundle"),
        ({"version": 2}, "bundle_version"),
        ({"version": None}, "bundle_version"),
        ({"family": ALIGNER}, "wrong_model_role"),
        ({"family": None}, "unknown_family"),
        ({"family": ["qwen3-asr"]}, "unknown_family"),
    ],
)
def test_a_description_of_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    with raises(ModelError, code):
        read_bundle(write(tmp_path, **changes), Role.RECOGNISER)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"a"', "\xff"])
def test_a_broken_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text, "latin-1")
    with pytest.raises(ModelError) as caught:
        read_bundle(tmp_path, Role.RECOGNISER)
    assert caught.value.code in {"bundle_unreadable", "not_a_bundle"}
    assert str(tmp_path / "model.json") in str(caught.value)


def test_a_directory_without_description_is_refused(tmp_path: Path) -> None:
    with raises(ModelError, "not_a_bundle"):
        read_bundle(tmp_path, Role.RECOGNISER)


def test_a_description_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").mkdir()
    with raises(ModelError, "bundle_unreadable"):
        read_bundle(tmp_path, Role.RECOGNISER)


# What it says of its files


NAMES = ("encoder_frontend.onnx", "encoder_backend.onnx", "decoder.gguf")


def fill(directory: Path, *others: str) -> None:
    for name in (*NAMES, *others):
        (directory / name).write_bytes(b"12345")


def bundle_with(tmp_path: Path, **facts: object) -> Bundle:
    return open_bundle(write(tmp_path, **facts))


def test_facts_that_are_missing_are_unknown(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path)
    assert (bundle.languages, bundle.licence, bundle.encoder_bits, bundle.warning) == (None,) * 4
    assert len(bundle.source) == len(bundle.files) == len(bundle.precision) == 0


def test_facts_are_read(tmp_path: Path) -> None:
    bundle = bundle_with(
        tmp_path,
        languages=["English", "Chinese"],
        licence="Apache-2.0",
        source={"repository": "a/b"},
        precision={"encoder": "fp16", "decoder": "q4_k"},
        files={"decoder.gguf": {"bytes": 5, "sha256": "AB"}},
    )
    assert bundle.languages == ("English", "Chinese")
    assert bundle.licence == "Apache-2.0"
    assert bundle.source == {"repository": "a/b"}
    assert bundle.precision["decoder"] == "q4_k"
    assert bundle.files == {"decoder.gguf": StoredFile(5, "ab")}


@pytest.mark.parametrize("value", [7, "text", ["list"], [1], {"a": 1}, {"a": None}, True])
def test_facts_of_another_type_are_ignored(tmp_path: Path, value: object) -> None:
    names = ("languages", "licence", "source", "precision", "files", "encoder_bits")
    bundle = bundle_with(tmp_path, **dict.fromkeys(names, value))
    for name in (*names, "warning"):
        getattr(bundle, name)  # raises nothing


@pytest.mark.parametrize(
    ("facts", "bits"),
    [
        ({"encoder_bits": 4}, 4),
        ({"encoder_bits": 5, "precision": {"encoder": "fp16"}}, 5),
        ({"precision": {"encoder": "int4"}}, 4),
        ({"precision": {"encoder": "q4_k"}}, 4),
        ({"precision": {"encoder": "int8"}}, 8),
        ({"precision": {"encoder": "fp32"}}, 32),
        ({"precision": {"encoder": "mixed"}}, None),
        ({"precision": {"decoder": "q4_k"}}, None),
    ],
)
def test_an_encoder_of_few_bits_has_a_warning(
    tmp_path: Path, facts: dict[str, Any], bits: int | None
) -> None:
    bundle = bundle_with(tmp_path, **facts)
    assert bundle.encoder_bits == bits
    assert (bundle.warning is not None) == (bits is not None and bits < 8)
    if bundle.warning:
        assert f"weights of {bits} bits" in bundle.warning


@pytest.mark.parametrize(
    ("family", "harm"), [(RECOGNISER, "repeat itself"), (ALIGNER, "times of words less exact")]
)
def test_the_warning_about_few_bits_depends_on_the_family(
    tmp_path: Path, family: str, harm: str
) -> None:
    bundle = bundle_with(tmp_path, family=family, encoder_bits=4)
    assert harm in str(bundle.warning)


def test_a_bundle_whose_files_are_there_is_whole(tmp_path: Path) -> None:
    fill(tmp_path)
    bundle_with(tmp_path, files={"decoder.gguf": {"bytes": 5}}).check_files()
    fill(tmp_path, "classifier.npy")
    bundle_with(tmp_path, family=ALIGNER).check_files()


@pytest.mark.parametrize("missing", [*NAMES, "classifier.npy", "encoder_backend.onnx.data"])
def test_a_file_that_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    fill(tmp_path, "classifier.npy", "encoder_backend.onnx.data")
    (tmp_path / missing).unlink()
    bundle = bundle_with(tmp_path, family=ALIGNER, files={"encoder_backend.onnx.data": {}})
    with raises(ModelError, "model_file_missing") as raised:
        bundle.check_files()
    assert missing in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_of_another_size_is_damaged(tmp_path: Path) -> None:
    fill(tmp_path)
    bundle = bundle_with(tmp_path, files={"decoder.gguf": {"bytes": 6}})
    with raises(ModelError, "model_file_damaged") as caught:
        bundle.check_files()
    assert "decoder.gguf has 5 bytes instead of 6" in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "", ".", "a\0b"])
def test_a_file_outside_the_bundle_is_not_looked_at(tmp_path: Path, name: str) -> None:
    fill(tmp_path)
    bundle = bundle_with(tmp_path, files={name: {"bytes": 1}})
    with raises(ModelError, "model_file_outside"):
        bundle.check_files()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, " " * (1 << 20) + "{}"])
def test_a_description_that_goes_too_far_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with raises(ModelError, "bundle_unreadable"):
        open_bundle(tmp_path)
