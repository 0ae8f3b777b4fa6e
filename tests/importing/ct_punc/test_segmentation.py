"""Dictionaries of punctuation models whose vocabulary consists of words."""

from pathlib import Path

import pytest

from streamasr.core.errors import ModelError
from streamasr.importing.ct_punc.segmentation import USER_DICTIONARY, read_segmentation
from streamasr.importing.pack import import_model
from streamasr.models.ct_punc.punctuator import CTPunctuator
from streamasr.models.ct_punc.segmentation import Segmentation
from streamasr.models.onnx import OnnxOptions
from tests.sources.ct_punc import MARKS, WORDS, Shape, random_weights, write_funasr_folder
from tests.support.errors import raises
from tests.support.punctuation import KNOWN_TO_JIEBA, write_jieba


@pytest.fixture
def jieba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The dictionary of a package that looks like jieba."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return write_jieba(tmp_path / "site")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    weights = random_weights(Shape(), len(WORDS), len(MARKS), 1)
    folder = write_funasr_folder(tmp_path / "source", weights, Shape())
    (folder / USER_DICTIONARY).write_text("\ufeff很好 30\n公园\n天气 7 n\n去 0\n\n", "utf-8")
    return folder


def test_the_dictionary_is_added_to_that_of_jieba(jieba: Path, source: Path) -> None:
    found = read_segmentation(source / USER_DICTIONARY)
    assert found.frequencies == {
        "今天": 50, "天气": 7, "天": 20, "很": 9, "好": 9, "很好": 30, "公园": 1,
    }  # fmt: skip
    assert found.total == 128 + 30 + 1 + 7
    assert list(found.divide("今天天气很好去公园")) == ["今天", "天气", "很好", "去", "公园"]


def test_an_imported_model_divides_text_without_jieba(
    jieba: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = import_model(source, tmp_path / "made")
    monkeypatch.undo()
    jieba.unlink()
    punctuator = CTPunctuator.from_bundle(bundle, OnnxOptions(threads=1))
    marks = punctuator.punctuate("今天天气很好")
    assert [mark.end for mark in marks.each] == [2, 4, 6]
    assert bundle.files["segmentation.txt"].sha256
    assert Segmentation.from_file(bundle.directory / "segmentation.txt").frequencies["很好"] == 30


def test_without_jieba_the_import_says_how_to_get_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with raises(ModelError, "package_missing") as caught:
        import_model(source, tmp_path / "made")
    assert "pip install 'streamasr[words]'" in str(caught.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("base", "own"), [("今天\n", "好 1\n"), (KNOWN_TO_JIEBA, b"\xff\xfe"), ("今天 x n\n", "好 1\n")]
)
def test_a_damaged_dictionary_is_refused(
    jieba: Path, source: Path, tmp_path: Path, base: str, own: str | bytes
) -> None:
    jieba.write_text(base, "utf-8")
    path = source / USER_DICTIONARY
    path.write_bytes(own if isinstance(own, bytes) else own.encode())
    with raises(ModelError, "dictionary_invalid"):
        import_model(source, tmp_path / "made")
