"""The registry of models: what stands in known.toml, and what a user puts over it."""

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.catalogue.known import (
    KnownModel,
    built_in,
    check_name,
    check_url,
    family_choices,
    find_known,
    known_models,
    usable_name,
)
from streamasr.core.errors import ModelError
from streamasr.models import tiny
from streamasr.models.embedded import EMBEDDED
from streamasr.models.qwen3.languages import LANGUAGES
from streamasr.models.qwen3.names import ALIGNER, RECOGNISER
from streamasr.models.registry import find_family
from tests.support.errors import raises
from tests.support.paths import REPOSITORY


def test_the_three_released_models_have_their_repositories() -> None:
    sources = {name: model.repository for name, model in built_in().items()}
    assert sources["qwen3-asr-0.6b"] == "Qwen/Qwen3-ASR-0.6B"
    assert sources["qwen3-asr-1.7b"] == "Qwen/Qwen3-ASR-1.7B"
    assert sources["qwen3-aligner-0.6b"] == "Qwen/Qwen3-ForcedAligner-0.6B"


@pytest.mark.parametrize("name", [*built_in()])
def test_each_model_has_a_family_a_title_and_a_licence(name: str) -> None:
    model = built_in()[name]
    check_name(name)
    assert model.title
    assert model.licence
    assert {*model.languages} <= {*find_family(model.family or "").languages}


QWEN3 = [name for name, model in built_in().items() if model.family in (ALIGNER, RECOGNISER)]


@pytest.mark.parametrize("name", QWEN3)
def test_each_qwen3_model_says_what_it_is(name: str) -> None:
    model = built_in()[name]
    assert model.parameters in name.upper()
    assert model.family == (ALIGNER if "aligner" in name else RECOGNISER)
    assert model.licence == "Apache-2.0"
    assert {*model.languages} <= {*LANGUAGES}
    assert len(model.languages) == (11 if model.family == ALIGNER else len(LANGUAGES.names))


@pytest.mark.parametrize(
    ("name", "repository", "files"),
    [
        (
            "paraformer-zh",
            "funasr/paraformer-zh",
            ("model.pt", "config.yaml", "am.mvn", "tokens.json"),
        ),
        ("paraformer-zh-q8_0", "cstr/paraformer-zh-GGUF", ("paraformer-zh-q8_0.gguf",)),
        ("paraformer-zh-funasr", "FunAudioLLM/Paraformer-GGUF", ("paraformer-q8.gguf",)),
        (
            "paraformer-zh-sherpa",
            "csukuangfj/sherpa-onnx-paraformer-zh-2023-09-14",
            ("model.int8.onnx", "tokens.txt"),
        ),
        (
            "paraformer-zh-2024",
            "csukuangfj/sherpa-onnx-paraformer-zh-2024-03-09",
            ("model.int8.onnx", "tokens.txt"),
        ),
        (
            "ct-punc-large",
            "funasr/ct-punc",
            ("model.pt", "config.yaml", "tokens.json", "jieba_usr_dict"),
        ),
    ],
)
def test_models_of_funasr_have_their_repositories_and_licence(
    name: str, repository: str, files: tuple[str, ...]
) -> None:
    model = built_in()[name]
    assert (model.repository, model.files) == (repository, files)
    assert model.licence == "FunASR Model License"
    assert model.languages == ("Chinese", "English")


def test_a_family_of_each_role_can_be_fetched() -> None:
    assert {model.family for model in built_in().values()} == {*family_choices()}


def test_a_file_elsewhere_has_its_size_and_hash() -> None:
    for model in built_in().values():
        if model.url is not None:
            assert model.url.startswith("https://")
            assert model.size
            assert model.sha256
            assert model.file_name.endswith(".zip")


def test_names_agree_with_the_rest_of_the_package() -> None:
    assert {known.family for known in built_in().values()} <= set(family_choices())
    assert EMBEDDED[tiny.NAME] == tiny.BUNDLE


def test_a_user_adds_models_and_replaces_those_built_in() -> None:
    mine, other = KnownModel(repository="me/mine"), KnownModel(url="https://a.example/b.gguf")
    own = {"mine": mine, "qwen3-asr-0.6b": other}
    assert find_known("mine", own) is mine
    assert find_known("qwen3-asr-0.6b", own) is other
    assert find_known("qwen3-asr-1.7b", own) == built_in()["qwen3-asr-1.7b"]
    assert known_models({}) == built_in()


def test_an_unknown_name_is_answered_with_a_similar_one() -> None:
    with raises(ModelError, "unknown_model") as caught:
        find_known("qwen-asr-0.6b", {})
    assert "'qwen-asr-0.6b'; did you mean qwen3" in str(caught.value)
    with raises(ModelError, "unknown_model") as caught:
        find_known("whisper", {"mine": KnownModel(repository="a/b")})
    assert re.search(r"known are: .*qwen3-aligner-0\.6b.*, mine\.", str(caught.value))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Qwen/Qwen3-ASR-0.6B", "qwen3-asr-0.6b?"),  # as the hub calls it
        ("qwen/qwen3-forcedaligner-0.6b", "qwen3-aligner-0.6b?"),
        ("aligner", "qwen3-aligner-0.6b?"),
        ("asr-0.6b", "qwen3-asr-0.6b or qwen3-asr-0.6b-q8_0 or qwen3-asr-0.6b-handy?"),
        ("Me/Mine", "mine?"),
    ],
)
def test_names_of_repositories_and_parts_of_names_are_understood(name: str, meant: str) -> None:
    with pytest.raises(ModelError) as caught:
        find_known(name, {"mine": KnownModel(repository="me/mine")})
    assert str(caught.value).endswith(f"; did you mean {meant}")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "-a", "_a", "a\0", "a\n", "é", "x" * 101],
)
def test_names_of_unsafe_directories_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a model's name"):
        check_name(name)


def test_the_name_of_the_embedded_model_is_taken() -> None:
    with pytest.raises(ValueError, match="'tiny' is the name of an embedded model"):
        check_name("tiny")


def test_the_word_for_no_aligner_is_not_a_name() -> None:
    with pytest.raises(ValueError, match="'none' cannot be a model's name: it stands for"):
        check_name("none")
    assert usable_name("none") == "model-none"


@given(st.text(max_size=10))
def test_every_name_that_is_accepted_is_a_plain_file_name(name: str) -> None:
    try:
        check_name(name)
    except ValueError:
        return
    assert Path("/models", name).parent == Path("/models")
    assert name.isascii()
    assert name[0].isalnum()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://a.example/x/Model-q5_k.zip", "Model-q5_k.zip"),
        ("https://a.example/x/model.gguf?download=true", "model.gguf"),
        ("https://a.example", "download"),
        ("https://a.example/..", "download"),
        ("https://a.example/%2e%2e%2fx", "download"),
        ("https://a.example/a%20b", "download"),
    ],
)
def test_a_file_is_called_as_its_address_says_if_that_is_a_name(url: str, name: str) -> None:
    assert KnownModel(url=url).file_name == name


@pytest.mark.parametrize(
    "url",
    ["", "x", "//a/b", "file:///a", "https://", "https://u@a/", "https://a/\n", "https://a/é"],
)
def test_an_address_without_a_file_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|Port|IPv6"):
        check_url(url)


def test_no_entry_can_be_written_that_has_no_source() -> None:
    for wrong in ({}, {"repository": "a/b", "url": "https://a/b"}, {"repository": "a/b/c"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, KnownModel)


def test_the_readme_and_the_registry_name_the_same_models() -> None:
    readme = REPOSITORY.joinpath("README.md").read_text("utf-8")
    named = {*re.findall(r"streamasr models pull ([a-z0-9][\w.+-]*)", readme)}
    assert named <= {*built_in()}
