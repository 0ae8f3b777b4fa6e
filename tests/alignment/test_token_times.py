"""Words from the times of tokens."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.alignment.token_times import words_of_tokens
from streamasr.alignment.words import split_words
from streamasr.core.orders import Align
from streamasr.core.transcript import Word, join_words
from streamasr.core.units import SAMPLE_RATE, Samples
from tests.support.scribe import JITTERS, Said, hear, speeches

START = Samples(1000)


def words_of(
    text: str, ends: Sequence[int], times: Sequence[tuple[int, int]], n_samples: int = 1000
) -> list[tuple[str, int, int]]:
    """Words with their times from the start of the segment."""
    spans = tuple((Samples(start), Samples(end)) for start, end in times)
    samples = np.zeros(n_samples, np.float32)
    words = words_of_tokens(Align(1, START, samples, text, None, tuple(ends), spans))
    check(words, text, n_samples)
    return [(word.text, word.start - START, word.end - START) for word in words]


def check(words: Sequence[Word], text: str, n_samples: int) -> None:
    """Require that words spell the text, in order, within the segment."""
    if split_words(text):
        assert join_words(words) == " ".join(text.split())
    else:
        assert not words
    edges = [START, *(edge for w in words for edge in (w.start, w.end)), START + n_samples]
    assert edges == sorted(edges)
    assert all(word.confidence is None for word in words)


def test_a_word_lasts_from_its_first_token_to_its_last() -> None:
    times = [(0, 10), (20, 30), (30, 50)]
    assert words_of("hello go", [2, 5, 8], times) == [("hello", 0, 30), ("go", 30, 50)]
    assert words_of("你好 go", [1, 2, 5], times) == [("你", 0, 10), ("好", 20, 30), ("go", 30, 50)]


def test_the_bytes_of_a_character_are_one_word() -> None:
    times = [(0, 10), (10, 20), (20, 30), (40, 50)]
    assert words_of("零一", [0, 0, 1, 2], times) == [("零", 0, 30), ("一", 40, 50)]


def test_words_of_one_token_share_its_time() -> None:
    assert words_of("你好吗", [3], [(0, 90)]) == [("你", 0, 30), ("好", 30, 60), ("吗", 60, 90)]


def test_punctuation_belongs_to_its_word() -> None:
    times = [(0, 10), (10, 12), (20, 30), (30, 31)]
    assert words_of("go, no.", [2, 3, 6, 7], times) == [("go,", 0, 12), ("no.", 20, 31)]


def test_text_behind_the_last_token_gets_its_end() -> None:
    assert words_of("go no", [2], [(0, 10)]) == [("go", 0, 10), ("no", 10, 10)]


def test_tokens_that_are_certain_together_get_a_word_each_if_they_are_as_many() -> None:
    times = [(0, 10), (20, 30), (40, 60)]
    expected = [("a", 0, 10), ("good", 20, 30), ("go", 40, 60)]
    assert words_of("a good go", [0, 6, 9], times) == expected
    assert words_of("AB go", [0, 2, 5], times) == [("AB", 0, 30), ("go", 40, 60)]


def test_tokens_at_the_end_that_are_not_certain_get_the_rest() -> None:
    times = [(0, 10), (20, 30), (40, 60)]
    assert words_of("go a", [2, 2], times[:2]) == [("go", 0, 10), ("a", 20, 30)]
    assert words_of("go", [0, 0], times[:2]) == [("go", 0, 30)]
    assert words_of("go on up", [2, 2, 2], times) == [("go", 0, 10), ("on", 20, 30), ("up", 40, 60)]


def test_times_are_put_in_order_and_into_the_segment() -> None:
    found = words_of("go no on", [2, 5, 8], [(0, 50), (40, 30), (90, 200)], n_samples=100)
    assert found == [("go", 0, 50), ("no", 50, 50), ("on", 90, 100)]


@pytest.mark.parametrize("text", ["", "...", " "])
def test_where_nothing_is_spoken_there_are_no_words(text: str) -> None:
    assert words_of(text, [len(text)], [(0, 10)]) == []


@given(speeches(), JITTERS, st.integers(0, 10 * SAMPLE_RATE))
def test_words_spell_any_hypothesis(said: list[Said], jitter: list[int], n_samples: int) -> None:
    hypothesis = hear(said, 20 * SAMPLE_RATE, jitter)
    spans = [(int(start), int(end)) for start, end in hypothesis.times]
    found = words_of(hypothesis.text, hypothesis.ends, spans, n_samples)
    assert [word for word, _, _ in found] == [word.heard_in(20 * SAMPLE_RATE) for word in said]


@given(
    st.text("a b你,。'", max_size=20),
    st.lists(st.tuples(st.integers(0, 25), st.integers(-50, 500), st.integers(-50, 500))),
)
def test_words_spell_any_text(text: str, tokens: list[tuple[int, int, int]]) -> None:
    ends = sorted(end for end, _, _ in tokens)
    words_of(text, ends, [(start, end) for _, start, end in tokens])
