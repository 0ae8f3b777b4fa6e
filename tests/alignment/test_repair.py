"""Slots -> word times: the reference's order, then a length for every word."""

import json
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from streamasr.alignment.repair import (
    Span,
    longest_non_decreasing,
    repair_lengths,
    repair_order,
    repair_times,
    word_confidence,
)
from streamasr.alignment.spread import spread_words
from streamasr.alignment.words import split_words
from tests.support.examples import examples
from tests.support.paths import DATA

GOLDEN = json.loads((DATA / "repair_golden.json").read_text("utf-8"))

SLOTS = st.lists(st.integers(0, 60).map(lambda label: 80 * label), max_size=60)


@st.composite
def clips(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Ordered spans with many equal values, and a clip that may be too short for them."""
    n = draw(st.integers(0, 20))
    values = sorted(draw(st.lists(st.integers(0, 900), min_size=2 * n, max_size=2 * n)))
    step = draw(st.sampled_from([1, 13, 80, 300]))
    values = [value // step * step for value in values]
    return list(zip(values[::2], values[1::2], strict=True)), draw(st.integers(n, 1200))


def slow_subsequence(values: Sequence[int]) -> list[int]:
    """The quadratic programme, first maximum wins, as the fact sheet describes it."""
    best: list[list[int]] = []
    for i, value in enumerate(values):
        chains = [best[j] for j in range(i) if values[j] <= value]
        best.append([*max(chains, key=len, default=[]), i])  # max keeps the first
    return max(best, key=len, default=[])


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_order_is_repaired_as_in_the_reference(case: dict[str, list[int]]) -> None:
    assert repair_order(case["slots"]) == case["repaired"]


@settings(max_examples=examples(150), deadline=None)
@given(SLOTS)
def test_fast_subsequence_has_the_members_of_the_slow_one(values: list[int]) -> None:
    assert longest_non_decreasing(values) == slow_subsequence(values)


@settings(max_examples=examples(100), deadline=None)
@given(SLOTS)
def test_repaired_order_is_non_decreasing_and_stays(values: list[int]) -> None:
    repaired = repair_order(values)
    assert all(a <= b for a, b in pairwise(repaired))
    assert len(repaired) == len(values)
    assert repair_order(repaired) == repaired


@pytest.mark.parametrize(
    ("spans", "duration", "expected"),
    [
        ([], 0, []),
        ([(0, 80), (80, 80), (240, 400)], 400, [(0, 80), (80, 120), (240, 400)]),  # gap after
        ([(0, 80), (200, 200), (200, 400)], 400, [(0, 80), (160, 200), (200, 400)]),  # before
        ([(0, 80), (90, 90), (100, 400)], 400, [(0, 80), (80, 120), (120, 400)]),  # longer gives
        ([(0, 300), (300, 300), (300, 400)], 400, [(0, 260), (260, 300), (300, 400)]),
        ([(0, 80), (80, 80), (80, 80), (80, 80)], 80, [(0, 20), (20, 40), (40, 60), (60, 80)]),
        ([(0, 50), (50, 50), (50, 50), (50, 90)], 160, [(0, 40), (40, 80), (80, 120), (120, 160)]),
        ([(320, 400), (400, 400), (400, 400)], 400, [(280, 320), (320, 360), (360, 400)]),
        ([(320, 480), (480, 560)], 400, [(320, 360), (360, 400)]),  # past the end of the clip
    ],
)
def test_short_words_borrow(spans: list[Span], duration: int, expected: list[Span]) -> None:
    assert repair_lengths(spans, duration) == expected


@settings(max_examples=examples(150), deadline=None)
@given(clips())
def test_words_are_ordered_disjoint_within_the_clip_and_long_enough(
    clip: tuple[list[Span], int],
) -> None:
    spans, duration = clip
    repaired = repair_lengths(spans, duration)
    assert len(repaired) == len(spans)
    least = min(40, duration // len(spans)) if spans else 0
    assert all(end - start >= max(least, 1) for start, end in repaired)
    marks = [0, *(mark for span in repaired for mark in span), duration]
    assert all(a <= b for a, b in pairwise(marks))
    assert repair_lengths(repaired, duration) == repaired


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(40, 200)), max_size=20))
def test_good_words_keep_their_times(gaps_and_lengths: list[tuple[int, int]]) -> None:
    marks = list(accumulate(chain.from_iterable(gaps_and_lengths)))
    spans = list(zip(marks[::2], marks[1::2], strict=True))
    assert repair_lengths(spans, marks[-1] if marks else 0) == spans


@settings(max_examples=examples(150), deadline=None)
@given(clips())
def test_gaps_are_used_before_other_words(clip: tuple[list[Span], int]) -> None:
    """Good words stay if every gap has room for the short words beside it."""
    spans, duration = clip
    spans = [span for span in spans if span[1] <= duration]
    good = [i for i, (start, end) in enumerate(spans) if end - start >= 40]
    edges = [(-1, 0, 0), *((i, *spans[i]) for i in good), (len(spans), duration, duration)]
    assume(all((b - a - 1) * 40 <= right - left for (a, _, left), (b, right, _) in pairwise(edges)))
    repaired = repair_lengths(spans, duration)
    assert [repaired[i] for i in good] == [spans[i] for i in good]


@settings(max_examples=examples(150), deadline=None)
@given(SLOTS.filter(lambda slots: len(slots) % 2 == 0), st.integers(30, 6000))
def test_any_answer_of_the_aligner_becomes_times(slots: list[int], duration: int) -> None:
    spans = repair_times(slots, duration)
    assert len(spans) == len(slots) // 2
    assert all(start < end for start, end in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert not spans or (spans[0][0] >= 0 and spans[-1][1] <= duration)


def test_more_words_than_milliseconds_are_accepted() -> None:
    assert repair_lengths([(0, 0)] * 3, 2) == [(0, 0)] * 3
    assert repair_lengths([(5, 7)], 0) == [(0, 0)]


@pytest.mark.parametrize(
    ("p_start", "p_end", "confidence"), [(1.0, 1.0, 1.0), (0.0, 1.0, 0.0), (0.25, 1.0, 0.5)]
)
def test_confidence_is_the_geometric_mean(p_start: float, p_end: float, confidence: float) -> None:
    assert word_confidence(p_start, p_end) == confidence


def test_spread_words_share_time_by_their_width() -> None:
    assert spread_words(split_words("a bbb, 中"), 100, 700) == [(100, 200), (200, 500), (500, 700)]


@settings(max_examples=examples(100), deadline=None)
@given(st.text("a中 9", max_size=30), st.integers(0, 500), st.integers(30, 5000))
def test_spread_words_fill_the_time(text: str, start: int, length: int) -> None:
    words = split_words(text)
    spans = spread_words(words, start, start + length)
    assert len(spans) == len(words)
    if spans:
        assert (spans[0][0], spans[-1][1]) == (start, start + length)
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    assert all(a < b for a, b in spans)
