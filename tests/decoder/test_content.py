"""Contents of sequences: positions, rows, and the number that two share."""

from itertools import takewhile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.decoder.content import Content, common_length
from tests.support.readers import Item, items_of, row_items

tokens = st.lists(st.integers(0, 1), max_size=5).map(tuple)
embeddings = st.lists(st.sampled_from([0.0, 1.0]), max_size=5).map(
    lambda values: np.array(values, np.float32).reshape(-1, 1).repeat(2, axis=1)
)
contents = st.builds(Content, tokens, embeddings, tokens)


@given(contents)
def test_positions_are_counted_through(content: Content) -> None:
    assert content.audio_begin == len(content.before)
    assert content.text_begin == len(content.before) + len(content.embeddings)
    assert len(content) == len(items_of(content))


@given(contents, st.integers(1, 4))
def test_rows_one_after_the_other_are_all_of_the_content(content: Content, limit: int) -> None:
    read: list[Item] = []
    while len(read) < len(content):
        rows = content.rows(len(read), limit)
        assert 0 < len(rows) <= limit
        read += row_items(rows)
    assert read == items_of(content)


def test_rows_are_tokens_or_embeddings_even_if_they_are_none() -> None:
    content = Content((1, 2), np.zeros((2, 3), np.float32), (3,))
    kinds = [content.rows(begin, 8).dtype.kind for begin in range(len(content) + 1)]
    assert kinds == ["i", "i", "f", "f", "i", "i"]
    assert content.rows(5, 8).shape == (0,)


@given(contents, contents)
def test_the_common_length_is_that_of_the_equal_positions(a: Content, b: Content) -> None:
    equal = takewhile(lambda pair: pair[0] == pair[1], zip(items_of(a), items_of(b), strict=False))
    n_equal = sum(1 for _ in equal)
    assert common_length(a, b) == common_length(b, a)
    assert common_length(a, a) == len(a)
    # Tokens are never taken for embeddings; so items at the same place may count as different
    # only where one content has a token of another part, which costs little.
    assert common_length(a, b) <= n_equal
    if a.before == b.before and len(a.embeddings) == len(b.embeddings):
        assert common_length(a, b) == n_equal


def test_embeddings_that_are_the_same_array_are_not_compared() -> None:
    rows = np.full((3, 2), np.nan, np.float32)
    assert common_length(Content((), rows, (1,)), Content((), rows, (1, 2))) == 4


@pytest.mark.parametrize(
    "other", [np.nan * np.ones((3, 2), np.float32), np.zeros((3, 4), np.float32)]
)
def test_what_cannot_be_compared_is_different(other: np.ndarray) -> None:
    content = Content((1,), np.zeros((3, 2), np.float32), (2,))
    assert common_length(content, Content((1,), other, (2,))) == 1


@given(embeddings, st.integers(0, 5))
def test_embeddings_that_grow_are_kept(rows: np.ndarray, n_first: int) -> None:
    shorter = Content((1,), rows[:n_first].copy(), (2,))
    longer = Content((1,), rows, (2,))
    is_longer = len(shorter.embeddings) < len(rows)
    assert common_length(shorter, longer) == 1 + len(shorter.embeddings) + (not is_longer)
