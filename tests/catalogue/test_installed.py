"""The directory of installed models: what is in it, usable or not, and what came from where."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamasr.catalogue.installed import (
    alone,
    find_by_source,
    find_installed,
    list_installed,
    need_installed,
    place_of,
    remove_installed,
    size_on_disk,
)
from streamasr.catalogue.known import KnownModel
from streamasr.core.errors import ConfigError, ModelError
from streamasr.importing.options import ImportOptions
from streamasr.importing.origin import canonical_path
from streamasr.importing.pack import import_model
from tests.support.checkpoints import write_checkpoint
from tests.support.errors import raises


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def install(models: Path, name: str, /, **facts: Any) -> Path:
    """A model directory that says little and holds less."""
    directory = models / name
    directory.mkdir(parents=True)
    for file in ("encoder_frontend.onnx", "encoder_backend.onnx", "decoder.gguf"):
        (directory / file).write_bytes(b"x" * 1000)
    described = {"format": "streamasr-bundle", "version": 1, "family": "qwen3-asr", "name": name}
    (directory / "model.json").write_text(json.dumps(described | facts))
    return directory


def test_nothing_is_installed_where_there_is_no_directory(models: Path) -> None:
    assert list_installed(models) == []
    assert find_installed(models, "a") is None


def test_models_are_listed_by_name_and_what_is_hidden_or_a_file_is_not(models: Path) -> None:
    for name in ("b", "a-0.6b", ".b.123.partial", ".downloads"):
        install(models, name)
    (models / "hashes.json").write_text("{}")
    found = list_installed(models)
    assert [each.name for each in found] == ["a-0.6b", "b"]
    assert all(each.bundle and each.problem is None for each in found)
    assert find_installed(models, "b") == found[1]
    assert find_installed(models, ".downloads") is None
    assert find_installed(models, "../models/b") is None


def test_broken_models_are_listed_as_such(models: Path) -> None:
    (install(models, "no-decoder") / "decoder.gguf").unlink()
    (install(models, "no-json") / "model.json").unlink()
    (install(models, "bad-json") / "model.json").write_text("{")
    (install(models, "deep-json") / "model.json").write_text("[" * 100_000)
    install(models, "newer", version=99)
    install(models, "short", files={"decoder.gguf": {"bytes": 2000, "sha256": "0" * 64}})
    install(models, "climbing", files={"../x": {"bytes": 1}})
    install(models, "odd name")
    problems = {each.name: each.problem for each in list_installed(models)}
    assert len(problems) == 8
    for name, what in {
        "no-decoder": "does not exist",
        "no-json": "has no model.json",
        "bad-json": "cannot read",
        "deep-json": "cannot read",
        "newer": "version 99",
        "short": "has 1000 bytes instead of 2000",
        "climbing": "not a file of the model",
        "odd name": "cannot be a model's name",
    }.items():
        assert what in (problems[name] or "")


def test_an_unreadable_directory_is_reported(models: Path) -> None:
    models.parent.mkdir(exist_ok=True)
    models.write_text("")
    with raises(ConfigError, "models_unreadable"):
        list_installed(models)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=5,
    ),
    st.sampled_from(["source", "files", "languages", "licence", "precision", "name", "family"]),
)
def test_a_damaged_description_does_not_hide_other_models(
    models: Path, value: Any, key: str
) -> None:
    shutil.rmtree(models, ignore_errors=True)
    install(models, "strange", **{key: value})
    install(models, "good")
    found = list_installed(models)
    assert [each.name for each in found] == ["good", "strange"]
    assert all(isinstance(each.source, str) for each in found)
    assert find_by_source(models, Path("/nowhere")) is None


# Names


@pytest.mark.parametrize("name", ["", "..", "a/b", ".a", "tiny"])
def test_an_invalid_name_is_not_installed(models: Path, name: str) -> None:
    with raises(ConfigError, "invalid_model_name"):
        place_of(models, name)


def test_a_model_that_is_not_installed_is_reported_with_advice(models: Path) -> None:
    install(models, "mine")
    own = {"theirs": KnownModel(repository="a/b")}
    assert need_installed(models, "mine", own).name == "mine"
    for name, sentence in {
        "qwen3-asr-0.6b": "is not installed; `streamasr models pull qwen3-asr-0.6b` gets it.",
        "theirs": "`streamasr models pull theirs` gets it.",
        "mien": "no model 'mien' is installed or known; did you mean mine?",
        "qwen3-asr": "did you mean qwen3-asr-",
        "tinny": "did you mean tiny?",
        "whisper": "`streamasr models list` shows all.",
        "../mine": "no model '../mine' is installed or known",
    }.items():
        with pytest.raises(ModelError) as caught:
            need_installed(models, name, own)
        assert sentence in str(caught.value)


# Removing


def test_a_model_that_is_removed_leaves_nothing(models: Path) -> None:
    directory = install(models, "mine")
    n_bytes = size_on_disk(directory)
    assert remove_installed(models, "mine") == n_bytes > 3000
    assert [*models.iterdir()] == []
    with raises(ModelError, "model_not_installed"):
        remove_installed(models, "mine")


def test_a_broken_model_can_be_removed(models: Path) -> None:
    (models / "mine").mkdir(parents=True)
    assert remove_installed(models, "mine") == 0


def test_of_a_linked_model_the_link_is_removed(models: Path, tmp_path: Path) -> None:
    elsewhere = install(tmp_path / "elsewhere", "mine")
    models.mkdir()
    (models / "mine").symlink_to(elsewhere)
    assert find_installed(models, "mine")
    remove_installed(models, "mine")
    assert (elsewhere / "decoder.gguf").exists()


@pytest.mark.parametrize("name", ["..", "", ".", "/", "a/../..", ".downloads"])
def test_nothing_else_can_be_removed(models: Path, name: str) -> None:
    install(models, "mine")
    (models / ".downloads").mkdir()
    with raises(ModelError, "model_not_installed"):
        remove_installed(models, name)
    assert (models / "mine/decoder.gguf").exists()
    assert (models / ".downloads").exists()


def test_a_file_with_two_names_takes_its_bytes_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1000))
    (tmp_path / "sub").mkdir()
    os.link(tmp_path / "a", tmp_path / "sub/b")
    (tmp_path / "c").symlink_to("a")
    assert size_on_disk(tmp_path) == 1000 + len("a")


# What was imported from which files


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and the directory of models into which it was imported as `mine`."""
    base = tmp_path_factory.mktemp("imported")
    source = base / "checkpoint"
    write_checkpoint(source)
    import_model(source, base / "models/mine", ImportOptions(name="mine", decoder="f16"))
    return source, base / "models"


def test_an_imported_model_is_found_by_its_source(imported: tuple[Path, Path]) -> None:
    source, models = imported
    found = find_by_source(models, canonical_path(source / "config.json"))
    assert found
    assert found.name == "mine"
    assert found.source == str(source)
    for path in (source.parent, source.parent.parent, Path("/"), Path("none")):
        assert find_by_source(models, path) is None


def test_models_are_installed_on_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_locks(_file: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with alone(tmp_path, lambda: pytest.fail("nobody is there")):
        assert "cannot be locked" in caplog.text


def test_one_process_installs_at_a_time(tmp_path: Path) -> None:
    waited: list[str] = []
    program = (
        "import sys; from pathlib import Path; from streamasr.catalogue.installed import alone\n"
        "with alone(Path(sys.argv[1]), lambda: print('waits', flush=True)): print('in')"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with alone(tmp_path, lambda: waited.append("here")):
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert other.stdout
        assert other.stdout.readline() == "waits\n"
    assert other.communicate()[0] == "in\n"
    assert waited == []
