"""Comparison of a model's result with the known facts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.doctor.verification import (
    MOST_TIME_ERROR_MS,
    MOST_WORD_ERRORS,
    Check,
    Report,
    check_text,
    check_times,
    normalised,
    speed,
    word_error_rate,
)

WORDS = st.lists(st.sampled_from("abc"), max_size=8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("And so, my fellow Americans: ask NOT!", ["and", "so", "my", "fellow", "americans"]),
        ("don't won’t", ["dont", "wont"]),
        ("你好，world。ok", ["你", "好", "world", "ok"]),
        ("ＡＢＣ　１", ["abc", "1"]),
        ("straße naïve", ["strasse", "naïve"]),
        ("", []),
        ("... — ?!", []),
    ],
)
def test_case_punctuation_and_spacing_do_not_count(text: str, words: list[str]) -> None:
    assert normalised(text)[: len(words) or None] == words


@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalised(text)
    assert normalised(" ".join(once)) == once


@pytest.mark.parametrize(
    ("expected", "found", "rate"),
    [
        ("a b c d", "a b c d", 0),
        ("a b c d", "a x c d", 0.25),
        ("a b c d", "a c d", 0.25),
        ("a b c d", "a b b c d", 0.25),
        ("a b c d", "", 1),
        ("a b", "x y z w", 2),
        ("", "", 0),
        ("", "a", 1),
    ],
)
def test_words_to_insert_leave_out_and_replace_are_counted(
    expected: str, found: str, rate: float
) -> None:
    assert word_error_rate(expected.split(), found.split()) == rate


@given(WORDS, WORDS, WORDS)
def test_distances_of_words_are_distances(a: list[str], b: list[str], c: list[str]) -> None:
    def distance(first: list[str], second: list[str]) -> float:
        return word_error_rate(first, second) * max(1, len(first))

    assert distance(a, a) == 0
    assert distance(a, b) == pytest.approx(distance(b, a))
    assert distance(a, c) <= distance(a, b) + distance(b, c) + 1e-9
    assert abs(len(a) - len(b)) - 1e-9 <= distance(a, b) <= max(len(a), len(b)) + 1e-9


def test_one_word_in_ten_may_be_wrong() -> None:
    said = "one two three four five six seven eight nine ten"
    check, rate = check_text(said, said.replace("ten", "eleven"))
    assert (check.passed, rate) == (True, MOST_WORD_ERRORS)
    check, rate = check_text(said, said.replace("nine ten", "eleven"))
    assert (check.passed, rate) == (False, 0.2)
    assert check.detail == "word error rate 20.0%, at most 10%"


def test_without_a_text_nothing_is_judged() -> None:
    check, rate = check_text(None, "anything")
    assert (check.passed, rate) == (None, None)


KNOWN = [("good", (0.5, 0.7)), ("morning", (0.7, 1.2))]


def test_the_borders_of_words_are_compared() -> None:
    check, error = check_times(KNOWN, [("Good", (0.5, 0.74)), ("morning!", (0.74, 1.2))])
    assert check.passed
    assert error == pytest.approx(20)
    late = [(word, (start + 0.2, end + 0.2)) for word, (start, end) in KNOWN]
    check, error = check_times(KNOWN, late)
    assert not check.passed
    assert error == pytest.approx(200)
    assert f"at most {MOST_TIME_ERROR_MS:.0f} ms" in check.detail


def test_times_of_other_words_are_not_judged() -> None:
    for found in ([], KNOWN[:1], [("bad", (0.5, 0.7)), KNOWN[1]]):
        check, error = check_times(KNOWN, found)
        assert (check.passed, error) == (None, None)
    check, error = check_times(None, KNOWN)
    assert (check.passed, error) == (None, None)


def test_speed_is_seconds_of_audio_for_each_of_work() -> None:
    assert speed(0.5, 5.0).times_real_time == 10
    assert speed(0.0, 5.0).times_real_time is None


@pytest.mark.parametrize(
    ("outcomes", "passed"),
    [((), True), ((True, None), True), ((None,), True), ((True, False), False)],
)
def test_a_report_passes_if_nothing_is_wrong(
    outcomes: tuple[bool | None, ...], passed: bool
) -> None:
    checks = tuple(Check("a", outcome, "") for outcome in outcomes)
    assert Report("m", "f", "d", checks).passed is passed
