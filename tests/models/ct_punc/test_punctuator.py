"""ct-punc at run time: classes as funasr gives them, marks, and bundles that cannot be used."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.errors import ModelError
from streamasr.core.punctuation import Mark, Marks, marked_text
from streamasr.models.bundle import open_bundle
from streamasr.models.ct_punc.punctuator import CTPunctuator
from streamasr.models.ct_punc.text import words_of
from streamasr.models.onnx import OnnxOptions
from tests.sources.ct_punc import MARKS, WORDS, Shape, Weights, random_weights, write_bundle
from tests.support.errors import raises
from tests.support.paths import TESTS

GOLDEN = json.loads((TESTS / "data" / "golden_ct_punc.json").read_text("utf-8"))
NONE, COMMA, PERIOD = 1, 2, 3


def opened(folder: Path) -> CTPunctuator:
    return CTPunctuator.from_bundle(open_bundle(folder), OnnxOptions(threads=1))


def weights_for(seed: int = 0, **others: Any) -> Weights:
    return random_weights(Shape(), len(WORDS), len(MARKS), seed, **others)


@pytest.fixture
def always(tmp_path: Path) -> Callable[[int], CTPunctuator]:
    """A model that gives each word the same class."""

    def make(chosen: int) -> CTPunctuator:
        others = [kind for kind in range(len(MARKS)) if kind != chosen]
        return opened(write_bundle(tmp_path / "m", weights_for(rare=others)))

    return make


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['seed']}")
def test_classes_are_those_of_funasr(tmp_path: Path, case: dict[str, Any]) -> None:
    shape = Shape(**case["shape"])
    weights = random_weights(shape, len(WORDS), len(MARKS), case["seed"], rare=case["rare"])
    punctuator = opened(write_bundle(tmp_path / "m", weights, shape))
    words = [word for word, _ in words_of(case["text"])]
    # The last one is that of the closing mark.
    assert punctuator.classes(words)[:-1] == case["classes"][:-1]
    marks = punctuator.punctuate(case["text"])
    closed = [*marks.each[:-1], Mark(marks.each[-1].end, marks.closing)]
    if "<unk>" not in case["marked"]:  # which funasr writes as it is
        expected = re.sub("(?<=[a-z])、", ",", case["marked"])
        assert without_spaces(marked_text(case["text"], closed)) == without_spaces(expected)


def without_spaces(text: str) -> str:
    """The text as far as funasr keeps it: it leaves out the space between Hanzi and words."""
    return "".join(text.split())


def test_a_sentence_is_closed_by_its_own_mark_or_a_period(
    always: Callable[[int], CTPunctuator],
) -> None:
    assert always(COMMA).punctuate("今天 hello").closing == "."


@pytest.mark.parametrize(
    ("kind", "marks"),
    [
        (
            0,
            "",
        ),
        (1, ""),
        (2, "，,"),
        (3, "。."),
        (4, "？?"),
        (5, "、,"),
    ],
)
def test_marks_have_the_form_of_the_word_before_them(
    always: Callable[[int], CTPunctuator], kind: int, marks: str
) -> None:
    found = always(kind).punctuate("好 hello")
    assert "".join(mark.text for mark in found.each) == marks
    assert [mark.end for mark in found.each] == [1, 7]


def test_text_without_words_has_no_marks(always: Callable[[int], CTPunctuator]) -> None:
    assert always(COMMA).punctuate(" ") == Marks()


@given(st.lists(st.sampled_from(["好", "天", " ", "it's", "É", "a1", "\u3000"])).map("".join))
def test_words_cover_all_but_white_space(text: str) -> None:
    found = list(words_of(text))
    assert "".join(word for word, _ in found) == "".join(text.split())
    assert all(text[:end].endswith(word) for word, end in found)
    assert all(len(word) == 1 or word.isascii() for word, _ in found)


def test_a_word_in_capitals_is_known_in_lower_case(tmp_path: Path) -> None:
    punctuator = opened(write_bundle(tmp_path / "m", weights_for(3)))
    assert punctuator.classes([*"今天", "ASR", *"很好"]) == punctuator.classes(
        [*"今天", "asr", *"很好"]
    )


def test_a_text_without_any_mark_is_read_in_windows_that_fit(
    always: Callable[[int], CTPunctuator],
) -> None:
    assert always(NONE).classes(["好"] * 1203) == [NONE] * 1203


def test_a_long_text_of_commas_gets_periods(always: Callable[[int], CTPunctuator]) -> None:
    found = always(COMMA).classes(["好"] * 450)
    assert {*found} == {COMMA, PERIOD}
    assert len(found) == 450


def change_facts(folder: Path, **others: object) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | others))


def more_words(folder: Path) -> None:
    path = folder / "tokens.json"
    path.write_text(json.dumps([*json.loads(path.read_text()), "more"]))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda folder: (folder / "tokens.json").unlink(), "tokens_unreadable"),
        (lambda folder: (folder / "tokens.json").write_text("{}"), "tokens_unreadable"),
        (lambda folder: (folder / "tokens.json").write_text('["a"]'), "tokens_without_unknown"),
        (lambda folder: (folder / "model.onnx").unlink(), "model_file_missing"),
        (lambda folder: change_facts(folder, marks=["a"]), "punctuation_marks"),
        (lambda folder: change_facts(folder, marks=None), "punctuation_marks"),
        (lambda folder: change_facts(folder, marks=[*MARKS, "！"]), "punctuation_classes"),
        (lambda folder: change_facts(folder, realtime=True), "graph_inputs"),
        (more_words, "graph_does_not_run"),
    ],
)
def test_a_bundle_that_does_not_fit_is_refused(
    tmp_path: Path, change: Callable[[Path], object], code: str
) -> None:
    folder = write_bundle(tmp_path / "m", weights_for())
    change(folder)
    with raises(ModelError, code):
        opened(folder)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = dict(weights_for())
    weights["decoder.bias"] = np.full_like(weights["decoder.bias"], np.nan)
    with raises(ModelError, "punctuation_not_finite"):
        opened(write_bundle(tmp_path / "m", weights))


def test_a_realtime_model_attends_to_earlier_words_only_but_in_its_last_layer(
    tmp_path: Path,
) -> None:
    folder = write_bundle(tmp_path / "m", weights_for(2), realtime=True)
    punctuator = opened(folder)
    assert len(punctuator.classes([*"今天天气很好"] * 5)) == 30
