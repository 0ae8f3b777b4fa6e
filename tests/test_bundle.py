"""Model directories and their `model.json`."""

import json
from pathlib import Path
from typing import Any

import pytest

from streamasr.errors import ModelError
from streamasr.models import tiny
from streamasr.models.bundle import ALIGNER, RECOGNISER, find_model, read_bundle

GOOD = {"format": "streamasr-bundle", "version": 1, "family": RECOGNISER, "name": "mine"}


def write(directory: Path, **changes: object) -> Path:
    facts = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    (directory / "model.json").write_text(json.dumps(facts))
    return directory


def test_the_embedded_model_is_found_by_its_name() -> None:
    assert find_model("tiny") == tiny.BUNDLE


def test_any_other_model_is_found_by_its_path(tmp_path: Path) -> None:
    assert find_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["", "huge", "/no/such/directory", "x" * 5000, "tiny/../tiny"])
def test_an_unknown_model_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="there is no model"):
        find_model(name)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "decoder.gguf").touch()
    with pytest.raises(ModelError, match="there is no model"):
        find_model(str(tmp_path / "decoder.gguf"))


def test_a_description_is_read(tmp_path: Path) -> None:
    bundle = read_bundle(write(tmp_path, n_window=50), RECOGNISER)
    assert bundle.name == "mine"
    assert bundle.facts["n_window"] == 50
    assert bundle.decoder == tmp_path / "decoder.gguf"
    assert bundle.aligner is None
    (tmp_path / "aligner").mkdir()
    assert bundle.aligner == tmp_path / "aligner"


def test_a_model_without_a_name_is_called_like_its_directory(tmp_path: Path) -> None:
    assert read_bundle(write(tmp_path, name=None), RECOGNISER).name == tmp_path.name


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": "other"}, "does not describe"),
        ({"format": None}, "does not describe"),
        ({"version": 2}, "import the model again"),
        ({"version": None}, "import the model again"),
        ({"family": ALIGNER}, f"holds a {ALIGNER}, a {RECOGNISER} is needed"),
        ({"family": None}, "knows no model family"),
    ],
)
def test_a_description_of_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        read_bundle(write(tmp_path, **changes), RECOGNISER)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"a"', "\xff"])
def test_a_broken_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text, "latin-1")
    with pytest.raises(ModelError, match=r"model\.json"):
        read_bundle(tmp_path, RECOGNISER)


def test_a_directory_without_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="make one with `streamasr models import`"):
        read_bundle(tmp_path, RECOGNISER)


def test_a_description_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").mkdir()
    with pytest.raises(ModelError, match="cannot be read"):
        read_bundle(tmp_path, RECOGNISER)
