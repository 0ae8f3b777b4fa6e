"""Hypotheses that continue text which has become stable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.borders import is_word_border, join_at_border
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.units import SAMPLE_RATE
from streamasr.session.joining import Continuation, TimedText, continue_stable, ends_word
from tests.support.scribe import JITTERS, PIECES, Said, hear, pieces_of, speeches, write

SECOND = SAMPLE_RATE


def said(*words: str, each: int = SECOND // 2, start: int = 0) -> Hypothesis:
    """Words of half a second each."""
    times = range(start, start + len(words) * each, each)
    return write([(word, at, at + each) for word, at in zip(words, times, strict=True)])


def stable(*words: str, each: int = SECOND // 2) -> TimedText:
    hypothesis = said(*words, each=each)
    return TimedText(hypothesis.text, hypothesis.tokens, hypothesis.ends, hypothesis.times)


def joined(before: TimedText, hypothesis: Hypothesis) -> Hypothesis:
    """The continuation; its parts go together."""
    continuation = continue_stable(before, hypothesis, join_at_border)
    result = continuation.hypothesis
    assert result.text.startswith(before.text)
    assert len(result.tokens) == len(result.ends) == len(result.times)
    assert list(result.ends) == sorted(result.ends)
    assert all(0 <= end <= len(result.text) for end in result.ends)
    edges = [edge for span in result.times[len(before.times) :] for edge in span]
    assert edges == sorted(edges)
    n_new = len(hypothesis.tokens) - continuation.n_replaced
    assert result.tokens[continuation.n_stable :] == hypothesis.tokens[-n_new:] * (n_new > 0)
    return result


def test_without_stable_text_a_hypothesis_is_used_as_it_is() -> None:
    hypothesis = said("go", "no")
    assert continue_stable(TimedText(), hypothesis, join_at_border) == Continuation(hypothesis)


def test_a_hypothesis_that_begins_with_the_stable_tokens_is_used_whole() -> None:
    hypothesis = said("hello", "go", "no", start=160)
    continuation = continue_stable(stable("hello", "go"), hypothesis, join_at_border)
    assert continuation == Continuation(hypothesis, 3, 3)


@pytest.mark.parametrize(
    ("before", "after", "result"),
    [
        (["go", "no"], ["go", "go", "the"], "go no the"),
        (["go", "no"], ["no", "no", "no"], "go no no"),
        (["你", "好"], ["你", "你", "一", "一"], "你好一一"),
        (["你", "go"], ["好", "go", "go", "你"], "你 go go 你"),
        (["held"], ["hello", "go"], "held go"),
        (["go", "零"], ["go", "一", "零"], "go 零零"),
        (["hello", "零"], ["零", "零", "一", "hello"], "hello 零一 hello"),
    ],
)
def test_a_hypothesis_that_differs_continues_behind_the_same_sound(
    before: list[str], after: list[str], result: str
) -> None:
    assert joined(stable(*before), said(*after)).text == result


def test_a_repeated_word_at_the_join_is_neither_lost_nor_doubled() -> None:
    assert joined(stable("no", "go"), said("the", "go", "go")).text == "no go go"
    assert joined(stable("no", "go", "go"), said("the", "go", "go")).text == "no go go"
    assert joined(stable("go", "go"), said("go", "go", "go", "go")).text == "go go go go"


def test_where_the_last_token_has_no_partner_time_decides() -> None:
    before = stable("go", "no", "the")  # until 1.5 s
    one = SECOND
    words = [("hello", 0, one), ("你", one, one + one // 2), ("好", one + one // 2, 2 * one)]
    assert joined(before, write(words)).text == "go no the 好"
    late = write([("你", 2 * one, 3 * one), ("好", 3 * one, 4 * one)])
    assert joined(before, late).text == "go no the 你好"


def test_the_result_may_be_the_stable_text() -> None:
    before = stable("go", "no")
    for hypothesis in (said("go"), said("the"), said("the", "go"), said()):
        result = joined(before, hypothesis)
        assert (result.text, result.tokens) == (before.text, before.tokens)
        assert result.times == before.times


def test_a_cut_divides_no_word_and_no_character() -> None:
    before = stable("go", each=SECOND // 4)
    result = joined(before, said("seventy", "no"))
    assert result.text == "go no"
    result = joined(stable("go", "no"), said("go", "零", "一"))
    assert result.text == "go no 一"


def test_times_of_the_stable_text_stay_and_the_others_give_way() -> None:
    before = stable("go", "no")
    hypothesis = said("the", "no", "hello", start=-800)
    result = joined(before, hypothesis)
    assert result.times[:2] == before.times
    assert result.times[2][0] == before.times[-1][1]


def test_the_family_joins_the_two() -> None:
    before, hypothesis = stable("go", "no"), said("the", "no", "hello")
    dashed = continue_stable(before, hypothesis, lambda a, b: f"{a}-{b.lstrip()}").hypothesis
    assert (dashed.text, dashed.ends) == ("go no-hello", (2, 5, 8, 11))
    spoilt = continue_stable(before, hypothesis, lambda _, b: b).hypothesis
    assert spoilt.text == "go no hello"


def test_the_same_tokens_whose_text_differs_keep_the_stable_text() -> None:
    before = TimedText("Go no", (1, 2), (2, 5), stable("go", "no").times)
    hypothesis = said("go", "no", "the")
    assert joined(before, hypothesis).text == "Go no the"


@pytest.mark.parametrize(
    ("text", "words", "result"),
    [
        ("go no", ["go", "no", "the"], "go no the"),
        ("go know", ["go", "no", "the", "hello"], "go know the hello"),
        ("你号", ["你", "好", "一"], "你号一"),
        ("go no", [], "go no"),
        ("go no", ["go"], "go no"),
    ],
)
def test_stable_text_without_times_is_continued_by_its_characters(
    text: str, words: list[str], result: str
) -> None:
    for before in (TimedText(text), TimedText(text, (900, 901))):
        continuation = continue_stable(before, said(*words), join_at_border)
        assert continuation.hypothesis.text == result
        assert continuation.n_replaced == continuation.n_stable == 0


@given(speeches(), speeches(), JITTERS, st.integers(0, 40), st.integers(0, 12 * SECOND))
def test_any_hypothesis_continues_any_stable_text(
    first: list[Said], second: list[Said], jitter: list[int], n_tokens: int, heard: int
) -> None:
    old = hear(first, 12 * SECOND, jitter)
    n_tokens = min(n_tokens, len(old.tokens))
    while n_tokens and not ends_word(old, n_tokens):
        n_tokens -= 1
    end = old.ends[n_tokens - 1] if n_tokens else 0
    before = TimedText(
        old.text[:end], old.tokens[:n_tokens], old.ends[:n_tokens], old.times[:n_tokens]
    )
    new = hear(second, heard, jitter[::-1])
    result = joined(before, new)
    assert joined(before, result) == result
    assert is_word_border(result.text, end) or end == len(result.text)


def test_the_pieces_of_a_word_spell_it() -> None:
    for word in PIECES:
        assert sum(length for _, length in pieces_of(word)) == len(word)
