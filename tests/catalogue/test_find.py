"""From names and paths to model directories: what is there, and what is imported on first use."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streamasr.catalogue.find import Finder
from streamasr.catalogue.installed import list_installed
from streamasr.catalogue.known import NOTHING
from streamasr.core.errors import ModelError
from streamasr.importing.gguf_file import read_gguf
from streamasr.importing.options import ImportOptions
from streamasr.importing.pack import import_model
from streamasr.models import tiny
from streamasr.models.bundle import open_bundle
from tests.sources.crispasr import write_crispasr
from tests.sources.ct_punc import MARKS, WORDS, random_weights, write_funasr_folder
from tests.sources.ct_punc import Shape as PunctuationShape
from tests.sources.ct_punc import write_bundle as write_punctuation
from tests.sources.onnx_release import write_onnx_release
from tests.support import toy_family
from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.errors import raises
from tests.support.goldens import TINY_RECOGNISER


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("sources") / "my model", Shape())


@pytest.fixture(scope="module")
def aligner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("sources") / "aligner", Shape(n_classes=50))


@pytest.fixture
def notes() -> list[str]:
    """Sentences for the user."""
    return []


@pytest.fixture
def finder(tmp_path: Path, notes: list[str]) -> Finder:
    return Finder(tmp_path / "models", {}, notes.append)


def taken(notes: list[str]) -> str:
    text = "\n".join(notes)
    notes.clear()
    return text


def test_the_embedded_model_is_found_by_its_name(finder: Finder) -> None:
    assert finder.model("tiny") == tiny.BUNDLE


def test_a_model_directory_is_used_where_it_is(finder: Finder) -> None:
    assert finder.model(str(tiny.BUNDLE)) == tiny.BUNDLE
    assert not finder.models.exists()


def test_an_installed_model_is_found_by_its_name(finder: Finder, checkpoint: Path) -> None:
    import_model(checkpoint, finder.models / "mine")
    assert finder.model("mine") == finder.models / "mine"


def test_a_source_is_imported_once(finder: Finder, checkpoint: Path, notes: list[str]) -> None:
    found = finder.model(str(checkpoint))
    assert found == finder.models / "my-model"
    assert open_bundle(found).name == "my-model"
    assert "on its first use, as my-model" in taken(notes)
    (found / "mark").touch()
    for same in (checkpoint, checkpoint / "model.safetensors", checkpoint / ".." / "my model"):
        assert finder.model(str(same)) == found
    assert taken(notes) == ""


def test_the_working_directory_can_be_a_model(
    finder: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.BUNDLE)
    assert finder.model(".").samefile(tiny.BUNDLE)
    monkeypatch.chdir(tiny.BUNDLE.parent)
    assert finder.model("./tiny").samefile(tiny.BUNDLE)


def test_a_source_that_changed_is_imported_again_in_place_of_the_old_one(
    finder: Finder, tmp_path: Path, notes: list[str]
) -> None:
    source = write_checkpoint(tmp_path / "source")
    before = open_bundle(finder.model(str(source))).files
    shutil.rmtree(source)
    write_checkpoint(source, seed=1)
    found = finder.model(str(source))
    assert found.name == "source"
    assert "again, since it has changed, as source" in taken(notes)
    assert open_bundle(found).files != before
    assert [each.name for each in list_installed(finder.models)] == ["source"]


def test_a_source_that_is_linked_and_changed_in_place_is_imported_again(
    finder: Finder, tmp_path: Path
) -> None:
    release = write_onnx_release(TINY_RECOGNISER, tmp_path / "release", "fp32", "q8_0")
    found = finder.model(str(release))
    [decoder] = release.glob("*.gguf")
    other = write_onnx_release(TINY_RECOGNISER, tmp_path / "other", "fp32", "f16")
    [longer] = other.glob("*.gguf")
    with decoder.open("r+b") as file:
        file.write(longer.read_bytes())
    with raises(ModelError, "model_file_damaged"):
        finder.model("release")
    assert finder.model(str(release)) == found
    assert open_bundle(found).precision["decoder"] == "f16"


def test_a_change_of_the_configuration_is_a_change(finder: Finder, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    finder.model(str(source))
    config = (source / "config.json").read_text("utf-8")
    (source / "config.json").write_text(config.replace("1000000.0", "500000.0"), "utf-8")
    decoder = read_gguf(finder.model(str(source)) / "decoder.gguf")
    assert decoder.metadata["qwen3.rope.freq_base"] == 500_000


def test_files_that_are_links_are_known_again(finder: Finder, checkpoint: Path) -> None:
    snapshot = finder.models.parent / "models--Some--Model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in checkpoint.iterdir():
        (snapshot / path.name).symlink_to(path)
    found = {finder.model(str(snapshot)) for _ in range(3)}
    assert found == {finder.models / "Model"}


def test_a_folder_far_above_a_model_is_not_that_model(finder: Finder, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "above" / "a" / "b" / "c" / "source")
    finder.model(str(source))
    with raises(ModelError, "no_model"):
        finder.model(str(tmp_path / "above"))


def test_a_source_that_was_moved_is_known_again(
    finder: Finder, tmp_path: Path, notes: list[str]
) -> None:
    old = write_checkpoint(tmp_path / "old")
    made = finder.model(str(old))
    (made / "mark").touch()
    new = old.rename(tmp_path / "new")
    notes.clear()
    assert finder.model(str(new)) == made
    assert "is the source of old, which was moved" in taken(notes)
    assert finder.model(str(new)) == made
    assert taken(notes) == ""
    assert (made / "mark").exists()
    assert [each.name for each in list_installed(finder.models)] == ["old"]


def test_a_file_that_was_renamed_is_known_again(
    finder: Finder, checkpoint: Path, tmp_path: Path
) -> None:
    old = write_crispasr(checkpoint, tmp_path / "old.gguf", "f16")
    made = finder.model(str(old))
    assert finder.model(str(old.rename(tmp_path / "new.gguf"))) == made


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_source_that_was_moved_and_changed_is_another_source(
    finder: Finder, tmp_path: Path, name: str
) -> None:
    old = write_checkpoint(tmp_path / "old")
    made = finder.model(str(old))
    new = old.rename(tmp_path / "new")
    (new / name).write_bytes((new / name).read_bytes())
    assert finder.model(str(new)) != made


def test_sizes_and_times_alone_do_not_make_a_source_the_same(
    finder: Finder, tmp_path: Path
) -> None:
    old = write_checkpoint(tmp_path / "old")
    new = write_checkpoint(tmp_path / "new", seed=1)
    for path in (*old.iterdir(), *new.iterdir()):
        os.utime(path, (0, 0))
    made = finder.model(str(old))
    shutil.rmtree(old)
    assert finder.model(str(new)) != made


def test_a_copy_of_a_source_is_a_source_of_its_own(finder: Finder, tmp_path: Path) -> None:
    old = write_checkpoint(tmp_path / "old")
    made = finder.model(str(old))
    copy = shutil.copytree(old, tmp_path / "copy")
    assert finder.model(str(copy)) != made
    assert finder.model(str(old)) == made


def test_an_import_that_was_asked_for_is_not_replaced(finder: Finder, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    import_model(source, finder.models / "mine")
    assert finder.model(str(source)) == finder.models / "mine"
    shutil.rmtree(source)
    write_checkpoint(source, seed=1)
    assert finder.model(str(source)) == finder.models / "source"
    assert finder.model("mine") == finder.models / "mine"


def test_names_of_models_that_can_be_pulled_stay_free(finder: Finder, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "qwen3-asr-0.6b")
    assert finder.model(str(source)) == finder.models / "qwen3-asr-0.6b-2"


def test_a_directory_with_the_name_of_an_installed_model_is_noted(
    finder: Finder,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    notes: list[str],
) -> None:
    import_model(checkpoint, finder.models / "mine")
    write_checkpoint(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert finder.model("mine") == finder.models / "mine"
    assert "the files here are ./mine" in taken(notes)


def test_processes_that_import_at_once_share_one_result(finder: Finder, checkpoint: Path) -> None:
    program = "from streamasr.catalogue.find import *; print(Finder(Path({!r}), {{}}).model({!r}))"
    command = [sys.executable, "-c", program.format(str(finder.models), str(checkpoint))]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.communicate()[0].strip() for process in started]
    assert answers == [str(finder.models / "my-model")] * 3


@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        ("qwen3-asr-0.6b", "model_not_installed", "`streamasr models pull qwen3-asr-0.6b`"),
        ("qwen3-asr-0.6", "unknown_model", "did you mean qwen3-asr-0.6b"),
        ("nothing-like-it", "unknown_model", "`streamasr models list`"),
        ("Qwen/Qwen3-ASR-0.6B", "no_such_file", "`streamasr models pull qwen3-asr-0.6b`"),
        ("/no/such/place", "no_such_file", "/no/such/place"),
    ],
)
def test_a_missing_model_is_reported_with_advice(
    finder: Finder, name: str, code: str, sentence: str
) -> None:
    with pytest.raises(ModelError) as caught:
        finder.model(name)
    assert caught.value.code == code
    assert sentence in str(caught.value)


def test_a_broken_model_is_named(finder: Finder, checkpoint: Path) -> None:
    bundle = import_model(checkpoint, finder.models / "mine")
    bundle.decoder.unlink()
    with raises(ModelError, "model_file_missing"):
        finder.model("mine")


def test_the_recognisers_own_aligner_comes_first_then_any_that_is_installed(
    finder: Finder, checkpoint: Path, aligner: Path
) -> None:
    recogniser = finder.model(str(checkpoint))
    assert finder.aligner(None, recogniser) is None
    import_model(aligner, finder.models / "times", ImportOptions(decoder="f16"))
    assert finder.aligner(None, recogniser) == finder.models / "times"
    assert finder.aligner(None, tiny.BUNDLE) == tiny.BUNDLE / "aligner"
    assert finder.aligner("times", tiny.BUNDLE) == finder.models / "times"
    assert finder.aligner(NOTHING, recogniser) is None


def test_a_family_that_times_its_words_gets_an_aligner_only_if_one_is_named(
    finder: Finder, aligner: Path, tmp_path: Path
) -> None:
    import_model(aligner, finder.models / "times", ImportOptions(decoder="f16"))
    with toy_family.registered():
        recogniser = toy_family.write_bundle(tmp_path / "loudness")
        assert finder.aligner(None, recogniser) is None
        assert finder.aligner("times", recogniser) == finder.models / "times"


@pytest.fixture
def marks(finder: Finder) -> Path:
    """An installed punctuation model."""
    weights = random_weights(PunctuationShape(), len(WORDS), len(MARKS))
    return write_punctuation(finder.models / "marks", weights)


def test_a_recogniser_without_punctuation_gets_the_installed_model(
    finder: Finder, marks: Path, tmp_path: Path
) -> None:
    with toy_family.registered():
        recogniser = toy_family.write_bundle(tmp_path / "loudness")
        assert finder.punctuation(None, recogniser) == marks
        assert finder.punctuation("marks", recogniser) == marks
        assert finder.punctuation(str(marks), recogniser) == marks
        assert finder.punctuation(NOTHING, recogniser) is None
        with raises(ModelError, "unknown_model"):
            finder.punctuation("other", recogniser)
        shutil.rmtree(marks)
        assert finder.punctuation(None, recogniser) is None


def test_a_recogniser_that_punctuates_gets_no_model(
    finder: Finder, marks: Path, notes: list[str]
) -> None:
    assert finder.punctuation(None, tiny.BUNDLE) is None
    assert taken(notes) == ""
    assert finder.punctuation("marks", tiny.BUNDLE) is None
    assert "marks is not used" in taken(notes)


def test_a_published_punctuation_model_is_imported_on_its_first_use(
    finder: Finder, tmp_path: Path, notes: list[str]
) -> None:
    weights = random_weights(PunctuationShape(), len(WORDS), len(MARKS))
    source = write_funasr_folder(tmp_path / "punc", weights, PunctuationShape())
    with toy_family.registered():
        recogniser = toy_family.write_bundle(tmp_path / "loudness")
        assert finder.punctuation(str(source), recogniser) == finder.models / "punc"
    assert "on its first use" in taken(notes)
