"""Borders of words in text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.borders import is_word_border, join_at_border


@pytest.mark.parametrize(
    ("text", "borders"),
    [
        ("", [0]),
        ("go", [0]),
        ("go on", [0, 2, 3]),
        ("你好", [0, 1, 2]),
        ("你go", [0, 1]),
        ("go你", [0, 2, 3]),
        ("don't, no", [0, 6, 7]),
        ("3.5 好。", [0, 3, 4, 5, 6]),
        ("e\u0301 好\u3099", [0, 2, 3, 5]),
    ],
)
def test_words_end_at_white_space_and_at_every_chinese_or_japanese_character(
    text: str, borders: list[int]
) -> None:
    assert [n for n in range(len(text) + 1) if is_word_border(text, n)] == borders


@pytest.mark.parametrize(
    ("before", "after", "joined"),
    [
        ("go", "on", "go on"),
        ("go", " on", "go on"),
        ("go ", "on", "go on"),
        ("你", "好", "你好"),
        ("你", " 好", "你好"),
        ("go", "好", "go 好"),
        ("你", "go", "你 go"),
        ("go", ", on", "go, on"),
        ("你。", "好", "你。好"),
        ("go", "。", "go 。"),
        ("", "go", "go"),
        ("go", "  ", "go"),
    ],
)
def test_texts_are_joined_as_their_words_ask_for(before: str, after: str, joined: str) -> None:
    assert join_at_border(before, after) == joined


@given(st.text(), st.text())
def test_a_join_keeps_both_texts(before: str, after: str) -> None:
    joined = join_at_border(before, after)
    assert joined.startswith(before)
    assert joined.endswith(after.lstrip())
    assert len(joined) - len(before) - len(after.lstrip()) in (0, 1)
