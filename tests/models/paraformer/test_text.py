"""Text of Paraformer's tokens: joined as by FunASR, and certain as far as it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.models.paraformer.text import join_texts, text_of

PIECES = (
    "今",
    "天",
    "气",
    "a",
    "s",
    "r",
    "I",
    "hello",
    "don't",
    "tomo@@",
    "x@@",
    "4",
    "—",
    "é",
    "〇",
)
tokens = st.lists(st.sampled_from(PIECES), max_size=12)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("", ""),
        ("今 天 天 气", "今天天气"),
        ("hello world", "hello world"),
        ("今 天 hello world 气", "今天hello world气"),
        ("tomo@@ rrow is good", "tomorrow is good"),
        ("para@@ gra@@ phs 今", "paragraphs今"),
        ("a s r", "ASR"),
        ("用 a s r 识 别", "用ASR识别"),
        ("i am", "i am"),
        ("think i", "think i"),
        ("i i t is", "IIT is"),
        ("hello a b world", "hello AB world"),
        ("a 今 b", "a今b"),
        ("a@@ b c", "ab c"),
        ("1 2 hello 3", "12hello3"),
        ("don't", "don't"),
        ("今 — 天", "今—天"),
        ("hello — 今 天", "hello —今天"),
        ("hel@@ 今", "hel今"),  # FunASR moves the piece to the next Latin word
        ("今 hel@@", "今hel"),  # and loses this one
    ],
)
def test_tokens_are_joined(tokens: str, text: str) -> None:
    assert text_of(tokens.split()).text == text


@pytest.mark.parametrize(
    ("tokens", "ends"),
    [
        ("今 天", [1, 2]),
        ("hello world", [5, 11]),
        ("tomo@@ rrow", [4, 8]),
        ("a", [0]),  # "A", if another letter follows
        ("a s r", [0, 2, 3]),
        ("hello a", [5, 5]),
        ("hello a world", [5, 5, 13]),
        ("a s 今 b 天", [0, 2, 3, 3, 5]),
    ],
)
def test_ends_say_what_is_certain(tokens: str, ends: list[int]) -> None:
    assert list(text_of(tokens.split()).ends) == ends


@given(tokens=tokens, more=tokens)
def test_what_is_certain_stands_whatever_follows(tokens: list[str], more: list[str]) -> None:
    now, later = text_of(tokens), text_of(tokens + more)
    assert len(now.ends) == len(tokens)
    assert list(now.ends) == sorted(now.ends)
    assert later.ends[: len(tokens)] == now.ends
    for end in now.ends:
        assert later.text[:end] == now.text[:end]


@given(tokens=tokens)
def test_nothing_is_lost_but_marks_of_pieces(tokens: list[str]) -> None:
    spoken = "".join(tokens).replace("@@", "")
    assert text_of(tokens).text.replace(" ", "").casefold() == spoken.casefold()


@given(tokens=st.lists(st.text(max_size=4), max_size=5))
def test_no_token_is_too_strange(tokens: list[str]) -> None:
    found = text_of(tokens)
    assert all(0 <= end <= len(found.text) for end in found.ends)


@pytest.mark.parametrize(
    ("tokens", "language"),
    [
        ("", None),
        ("今 天", "Chinese"),
        ("hello", "English"),
        ("hello 今", "Chinese"),
        ("1 2", "Chinese"),  # a digit is as good as a Chinese character to the model
    ],
)
def test_the_language_follows_from_the_characters(tokens: str, language: str | None) -> None:
    assert text_of(tokens.split()).language == language


@pytest.mark.parametrize(
    ("before", "after", "joined"),
    [
        ("今", "天", "今天"),
        ("hello", " world", "hello world"),
        ("hello", "world", "hello world"),
        ("今天", "hello", "今天hello"),
        ("hello", "今天", "hello今天"),
        ("4", "hello", "4hello"),
        ("", "hello", "hello"),
        ("hello", "", "hello"),
    ],
)
def test_texts_are_joined_as_their_tokens_would_be(before: str, after: str, joined: str) -> None:
    assert join_texts(before, after) == joined


@given(before=st.text(), after=st.text())
def test_joining_keeps_both_texts(before: str, after: str) -> None:
    joined = join_texts(before, after)
    assert joined.startswith(before)
    assert joined.endswith(after.lstrip())
