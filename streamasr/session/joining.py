"""Hypotheses of families that cannot be forced, joined to the stable text; pure.

Such a family reads the whole segment anew in each pass, and its hypothesis may contradict the text
that has become stable. The stable text stays, and the hypothesis continues it:

    stable       seven two                 |
    hypothesis   seven too  five one       |  "two" and "too" are the same sound
    joined       seven two  five one       |  "five one" continues the stable text

* A hypothesis that begins with the stable tokens is used whole.
* Otherwise the stable tokens are aligned with the new ones, as many as fit best, by edit distance
  and by the distance of partners in time. The hypothesis is cut behind the partner of the last
  stable token. Where that one has no partner, time decides: the hypothesis is cut before the first
  token whose middle lies behind the end of the stable text.
* A cut inside a word moves to its border: to its start if its middle lies behind the end of the
  stable text. The family joins the two parts.

Stable text that was restored without times, from before the program knew them, is aligned by its
characters.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Final

from streamasr.core.borders import is_word_border
from streamasr.core.hypothesis import Hypothesis, TokenTimes
from streamasr.core.traits import Join
from streamasr.core.units import Samples, to_samples

_EDIT: Final = to_samples(0.3)
"""Cost of an edit: about a word. Tokens rather differ than be partners that are further apart."""

_GAP: Final = to_samples(0.15)
"""Cost of a token without partner beyond that of an edit: a bit more than the times of one token
differ from pass to pass (0.12 s), so that different tokens of the same time are partners."""

_WINDOW: Final = to_samples(4.0)
"""Only tokens of so much time before the end of the stable text are aligned."""

_BEYOND: Final = to_samples(1.0)
"""And of so much after it."""

_NO_PARTNERS: Final = 4 * (_EDIT + _GAP)
"""Cost of partners that are none: dearer than both of them without a partner."""


@dataclass(frozen=True, slots=True)
class TimedText:
    """Text of tokens."""

    text: str = ""
    tokens: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    times: TokenTimes = ()

    @property
    def is_timed(self) -> bool:
        """Return True if each token has its place in the text and in time."""
        return bool(self.tokens) and len(self.tokens) == len(self.ends) == len(self.times)


@dataclass(frozen=True, slots=True)
class Continuation:
    """A hypothesis that begins with the stable text."""

    hypothesis: Hypothesis
    n_replaced: int = 0
    """Tokens of the original hypothesis that the stable ones replace."""
    n_stable: int = 0
    """Tokens that replace them."""


def continue_stable(stable: TimedText, hypothesis: Hypothesis, join: Join) -> Continuation:
    """Make a hypothesis begin with the stable text; the result may equal the stable text."""
    if not stable.text:
        return Continuation(hypothesis)
    if not (stable.is_timed and _is_timed(hypothesis)):
        return _continue_text(stable.text, hypothesis, join)
    n_stable = len(stable.tokens)
    begins_alike = hypothesis.tokens[:n_stable] == stable.tokens
    if begins_alike and hypothesis.text.startswith(stable.text):
        return Continuation(hypothesis, n_stable, n_stable)
    cut = n_stable if begins_alike else _cut(stable, hypothesis)
    cut = _at_word_border(hypothesis, cut, stable.times[-1][1])
    end = hypothesis.ends[cut - 1] if cut else 0
    text = _joined(stable.text, hypothesis.text[end:], join)
    shift = len(text) - len(hypothesis.text)  # the two have the same end
    ends = (e + shift if e > end else len(stable.text) for e in hypothesis.ends[cut:])
    joined = replace(
        hypothesis,
        text=text,
        tokens=stable.tokens + hypothesis.tokens[cut:],
        ends=stable.ends + tuple(ends),
        times=_in_order(stable.times, hypothesis.times[cut:]),
    )
    return Continuation(joined, cut, n_stable)


def _continue_text(stable: str, hypothesis: Hypothesis, join: Join) -> Continuation:
    """Continue a stable text of which, or of the hypothesis, the times are not known.

    If the text of the hypothesis differs, the result has no times: nothing more becomes stable.
    """
    text = hypothesis.text
    if text.startswith(stable):
        return Continuation(hypothesis)
    cut, _ = _align(len(stable), len(text), lambda i, j: 0 if stable[i] == text[j] else _EDIT)
    while cut < len(text) and not is_word_border(text, cut):
        cut += 1
    return Continuation(
        replace(hypothesis, text=_joined(stable, text[cut:], join), ends=(), times=())
    )


def _cut(stable: TimedText, hypothesis: Hypothesis) -> int:
    """Return the number of tokens of the hypothesis that the stable ones stand for."""
    end = stable.times[-1][1]
    old_middles, new_middles = _middles(stable.times), _middles(hypothesis.times)
    # What is far from the end does not decide what belongs to its last token.
    old_begin = min(bisect_left(old_middles, end - _WINDOW), len(old_middles) - 1)
    new_begin = bisect_left(new_middles, end - _WINDOW)
    new_end = bisect_right(new_middles, end + _BEYOND)

    def cost(i: int, j: int) -> int:
        i, j = old_begin + i, new_begin + j
        distance = abs(old_middles[i] - new_middles[j])
        if stable.tokens[i] == hypothesis.tokens[j]:
            return distance
        is_same_time = _is_same_time(stable.times[i], hypothesis.times[j])
        return _EDIT + distance if is_same_time else _NO_PARTNERS

    cut, has_partner = _align(len(old_middles) - old_begin, new_end - new_begin, cost)
    return new_begin + cut if has_partner else bisect_right(new_middles, end)


def _at_word_border(hypothesis: Hypothesis, cut: int, stable_end: Samples) -> int:
    """Return a cut that does not divide a word."""
    n_tokens = len(hypothesis.tokens)
    if cut in (0, n_tokens) or ends_word(hypothesis, cut):
        return cut
    before = next((k for k in range(cut - 1, 0, -1) if ends_word(hypothesis, k)), 0)
    behind = next((k for k in range(cut + 1, n_tokens) if ends_word(hypothesis, k)), n_tokens)
    start, end = hypothesis.times[before][0], hypothesis.times[behind - 1][1]
    return before if (start + end) // 2 > stable_end else behind


def _is_same_time(a: tuple[Samples, Samples], b: tuple[Samples, Samples]) -> bool:
    """Return True if two spans have half of the shorter one in common."""
    common = min(a[1], b[1]) - max(a[0], b[0])
    return 2 * common >= min(a[1] - a[0], b[1] - b[0])


def ends_word(hypothesis: Hypothesis, n_tokens: int) -> bool:
    """Return True if the first `n_tokens` tokens end with a whole word."""
    end = hypothesis.ends[n_tokens - 1]
    before = hypothesis.ends[n_tokens - 2] if n_tokens > 1 else 0
    return end > before and is_word_border(hypothesis.text, end)


def _align(n_old: int, n_new: int, pair_cost: Callable[[int, int], int]) -> tuple[int, bool]:
    """Align all old items with as many new ones, from the first on, as fit best.

    Args:
        n_old: number of old items, at least one.
        n_new: number of new items.
        pair_cost: cost of making an old and a new item partners, by their numbers.

    Returns:
        Number of new items that fit; True if the last old item has a partner, which is then the
        last of these. Of equals the fewest, rather without a partner.
    """
    gap = _EDIT + _GAP
    row = [j * gap for j in range(n_new + 1)]
    for i in range(n_old - 1):
        above, row = row, [row[0] + gap]
        for j, (left_above, just_above) in enumerate(pairwise(above)):
            row.append(min(left_above + pair_cost(i, j), just_above + gap, row[j] + gap))
    without = [(cost + gap, j, False) for j, cost in enumerate(row)]
    with_partner = [(row[j] + pair_cost(n_old - 1, j), j + 1, True) for j in range(n_new)]
    best = min(min(without), min(with_partner, default=without[0]), key=lambda each: each[0])
    return best[1], best[2]


def _is_timed(hypothesis: Hypothesis) -> bool:
    n_tokens = len(hypothesis.tokens)
    has_all = len(hypothesis.ends) == len(hypothesis.times) == n_tokens
    return has_all and (n_tokens > 0 or not hypothesis.text)


def _joined(stable: str, rest: str, join: Join) -> str:
    """Join both by the rule of the family, as far as it keeps them."""
    if not rest.strip():
        return stable
    joined = join(stable, rest)
    kept = joined.startswith(stable) and joined.endswith(rest.lstrip())
    return joined if kept else stable + rest


def _middles(times: TokenTimes) -> list[int]:
    """Return the middles of tokens, which never fall, however the times are ordered."""
    return list(accumulate(((start + end) // 2 for start, end in times), max))


def _in_order(stable: TokenTimes, rest: TokenTimes) -> TokenTimes:
    """Put times one behind the other; those of the rest give way."""
    floor = stable[-1][1]
    ordered = list(stable)
    for start, end in rest:
        later = Samples(max(start, floor))
        ordered.append((later, Samples(max(end, later))))
    return tuple(ordered)
