"""Division of Chinese into words, for punctuation models whose vocabulary consists of words."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.errors import ModelError
from streamasr.models.bundle import open_bundle
from streamasr.models.ct_punc.names import SEGMENTATION_FILE
from streamasr.models.ct_punc.punctuator import CTPunctuator
from streamasr.models.ct_punc.segmentation import Segmentation
from streamasr.models.ct_punc.text import words_of
from streamasr.models.onnx import OnnxOptions
from tests.sources.ct_punc import MARKS, WORDS, random_weights, write_bundle
from tests.sources.ct_punc import Shape as PunctuationShape
from tests.support.errors import raises

FREQUENCIES = {
    "今天": 50, "天气": 40, "今": 5, "天": 20, "气": 3, "很": 20, "好": 20, "很好": 1, "c++": 2,
}  # fmt: skip


@pytest.fixture
def segmentation() -> Segmentation:
    return Segmentation(FREQUENCIES, sum(FREQUENCIES.values()))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("今天天气很好", ["今天", "天气", "很", "好"]),
        ("蛇今天", ["蛇", "今天"]),
        ("用asr识别3次", ["用", "asr", "识", "别", "3", "次"]),
        ("a今天bc", ["a", "今天", "bc"]),
        ("用c++写", ["用", "c++", "写"]),
        ("好。é", ["好", "。", "é"]),
        ("", []),
    ],
)
def test_the_most_probable_words_are_found(
    segmentation: Segmentation, text: str, words: list[str]
) -> None:
    assert list(segmentation.divide(text)) == words


@given(st.lists(st.sampled_from(["今", "天", "气", "好", " ", "it's", "É", "a1", "\u3000"])))
def test_words_cover_all_but_white_space(parts: list[str]) -> None:
    text = "".join(parts)
    divide = Segmentation(FREQUENCIES, sum(FREQUENCIES.values())).divide
    found = list(words_of(text, divide))
    assert "".join(word for word, _ in found) == "".join(text.split())
    ends = [end for _, end in found]
    assert ends == sorted(set(ends))
    assert all(text[end - 1] == word[-1] for word, end in found)


def test_chinese_is_read_without_the_spaces_in_it_and_english_words_stay(
    segmentation: Segmentation,
) -> None:
    text = "hello it's 今 天天 气hello you"
    assert list(words_of(text, segmentation.divide)) == [
        ("hello", 5), ("it's", 10), ("今天", 14), ("天气", 17), ("hello", 22), ("you", 26),
    ]  # fmt: skip


def test_a_written_dictionary_is_read_again(segmentation: Segmentation, tmp_path: Path) -> None:
    path = tmp_path / SEGMENTATION_FILE
    segmentation.add("公园 里", 7)
    segmentation.add("今", 0)
    segmentation.write(path)
    read = Segmentation.from_file(path)
    assert (read.frequencies, read.total) == (segmentation.frequencies, segmentation.total)
    assert "今" not in read.frequencies
    for damaged in ("", "x\n", "3\nword\n", "3\nword x\n"):
        path.write_text(damaged)
        with raises(ModelError, "dictionary_unreadable"):
            Segmentation.from_file(path)


def test_marks_stand_behind_words(segmentation: Segmentation, tmp_path: Path) -> None:
    words = [*WORDS[:-1], "今天", "天气", WORDS[-1]]
    weights = random_weights(PunctuationShape(), len(words), len(MARKS), 3, rare=(0, 1))
    folder = write_bundle(tmp_path / "m", weights, words=words, segmentation=segmentation)
    punctuator = CTPunctuator.from_bundle(open_bundle(folder), OnnxOptions(threads=1))
    marks = punctuator.punctuate("今天天气很好")
    assert [mark.end for mark in marks.each] == [2, 4, 5, 6]
    assert all(mark.text for mark in marks.each)
    (folder / SEGMENTATION_FILE).unlink()
    with raises(ModelError, "dictionary_unreadable"):
        CTPunctuator.from_bundle(open_bundle(folder), OnnxOptions(threads=1))
    with raises(ModelError, "model_file_missing"):
        open_bundle(folder).check_files()
