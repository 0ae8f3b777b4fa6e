"""Repair of an aligner's times: ordered and disjoint words, each with a length.

The aligner gives two classes per word, start and end, independent of each other, so they may run
backwards or collapse. Two repairs follow one another: the reference's repair of the order, then
ours, which leaves no word without length. Times here are whole milliseconds from the start of the
clip: the classes are multiples of 80 ms and the reference repairs milliseconds.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from math import sqrt
from typing import Final

Span = tuple[int, int]
"""Start and end in milliseconds."""

MIN_WORD_MS: Final = 40
"""Length of the shortest word; the quickest real syllables are about twice as long."""


def repair_times(slots: Sequence[int], duration: int, min_length: int = MIN_WORD_MS) -> list[Span]:
    """Turn the raw slots start1, end1, start2, end2 ... into ordered, disjoint words.

    Args:
        slots: (2 n,) milliseconds of the classes.
        duration: of the clip, milliseconds.
        min_length: see `repair_lengths`.

    Returns:
        (n,) spans within the clip.
    """
    ordered = repair_order(slots)
    spans = list(zip(ordered[::2], ordered[1::2], strict=True))
    return repair_lengths(spans, duration, min_length)


def repair_order(values: Sequence[int]) -> list[int]:
    """Make times non-decreasing, as the reference does.

    The longest non-decreasing subsequence is trusted. A run of one or two other values takes
    the nearer trusted side (ties go left), a longer one is interpolated; at either end of the
    list only one side exists.

    Returns:
        As many values, truncated to whole numbers.
    Source: `_fix_timestamps` of the forced aligner's processor in transformers.
    """
    trusted = longest_non_decreasing(values)
    if not trusted:
        return []
    result = list(values)
    for left, right in pairwise([-1, *trusted, len(values)]):
        low = values[left] if left >= 0 else values[right]
        high = values[right] if right < len(values) else low
        n_lost = right - left - 1
        step = (high - low) / (n_lost + 1)
        for k in range(1, n_lost + 1):
            if n_lost > 2:
                result[left + k] = int(low + step * k)
            else:
                result[left + k] = low if k <= n_lost + 1 - k else high
    return result


def longest_non_decreasing(values: Sequence[int]) -> list[int]:
    """Find the indices of the longest non-decreasing subsequence.

    Of several, the one that the quadratic dynamic programme finds when the first maximum
    wins: the last member is the first index that reaches the greatest length, and each
    member's predecessor is the first index that could stand there.

    That can be had in O(n log n). Let a level hold the indices whose best subsequence has the
    same length. Along a level the values fall strictly, for otherwise the later index would
    extend the earlier; so its last value is its least, which gives each new index its level by
    bisection, and its first value that is small enough, by bisection again, the predecessor.
    """
    levels: list[list[int]] = []
    least: list[int] = []  # the last value of each level; non-decreasing
    parents: list[int] = []
    for i, value in enumerate(values):
        level = bisect_right(least, value)
        if level == len(levels):
            levels.append([])
            least.append(value)
        parents.append(_first_at_most(values, levels[level - 1], value) if level else -1)
        levels[level].append(i)
        least[level] = value
    members = []
    i = levels[-1][0] if levels else -1
    while i >= 0:
        members.append(i)
        i = parents[i]
    return members[::-1]


def _first_at_most(values: Sequence[int], level: Sequence[int], value: int) -> int:
    """Return the first index of a level whose value is at most this one."""
    return level[bisect_left(level, -value, key=lambda i: -values[i])]


def repair_lengths(
    spans: Sequence[Span], duration: int, min_length: int = MIN_WORD_MS
) -> list[Span]:
    """Give every word a length, and change as little as that needs.

    A run of words that are too short spreads into the gaps beside it, to the right first. Where
    these do not suffice, the longer neighbour gives the rest; where it cannot, it joins the run,
    and the gap beyond it counts. A clip that is too short for all the words is divided equally.
    Good spans are returned as they are.

    Args:
        spans: (n,), their values non-decreasing.
        duration: of the clip, milliseconds; later times are drawn in.
        min_length: milliseconds that every word gets where the clip has room.

    Returns:
        (n,) spans, ordered, disjoint, within the clip. Only with fewer milliseconds than
        words can some be empty.
    """
    if not spans:
        return []
    least = min(min_length, duration // len(spans))
    starts = [min(max(start, 0), duration) for start, _ in spans]
    ends = [min(max(end, 0), duration) for _, end in spans]
    for i in range(len(spans)):
        if ends[i] - starts[i] < least:
            _stretch_run(starts, ends, i, duration, least)
    return list(zip(starts, ends, strict=True))


def _stretch_run(starts: list[int], ends: list[int], i: int, duration: int, least: int) -> None:
    """Give the run of short words that begins at `i` its lengths, in place."""

    def spare(j: int) -> int:
        """Return the milliseconds that a neighbour can give; negative beyond the clip's words."""
        return ends[j] - starts[j] - least if 0 <= j < len(starts) else -duration - 1

    first = last = i
    while -least <= spare(last + 1) < 0:
        last += 1
    while True:
        low = ends[first - 1] if first > 0 else 0
        high = starts[last + 1] if last + 1 < len(starts) else duration
        lack = (last - first + 1) * least - (high - low)
        if lack <= 0:
            break
        before, after = spare(first - 1), spare(last + 1)
        if after >= max(before, lack):
            starts[last + 1] += lack
        elif before >= lack:
            ends[first - 1] -= lack
        elif after >= before:
            last += 1
        else:
            first -= 1
    _place(starts, ends, range(first, last + 1), (low, high), least)


def _place(starts: list[int], ends: list[int], run: range, room: Span, least: int) -> None:
    """Move the words of a run apart, within a room that is large enough for them."""
    low, high = room
    for i in run:
        starts[i] = max(starts[i], low)
        low = ends[i] = max(ends[i], starts[i] + least)
    for i in reversed(run):
        ends[i] = min(ends[i], high)
        high = starts[i] = min(starts[i], ends[i] - least)


def word_confidence(p_start: float, p_end: float) -> float:
    """Return the confidence of a word: the geometric mean of the probabilities of its times.

    The mean rather than the product, so that the result reads like one probability.

    Args:
        p_start: probability of the class chosen for the start, 0..1.
        p_end: the same for the end.

    Returns:
        0..1.
    """
    return sqrt(p_start * p_end)
