"""A made-up model family that cannot be forced, gives the times of its tokens, and errs.

Latin words are cut into pieces (`he@@`, `llo`), and some characters into their bytes: tokens end
inside words and inside characters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Final

from hypothesis import strategies as st

from streamasr.core.borders import join_at_border
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.units import SAMPLE_RATE, Samples, to_samples

JITTER: Final = to_samples(0.12)

PIECES: Final[dict[str, tuple[str, ...]]] = {
    "go": ("go",),
    "no": ("no",),
    "the": ("the",),
    "hello": ("he@@", "llo"),
    "held": ("he@@", "ld"),
    "seventy": ("se@@", "ven@@", "ty"),
    "零": ("<e9>", "<9b>", "<b6>"),
    "你": ("你",),
    "好": ("好",),
    "一": ("一",),
}

_IDS: Final = dict(
    zip(dict.fromkeys(p for ps in PIECES.values() for p in ps), count(1), strict=False)
)


@dataclass(frozen=True)
class Said:
    """A word of the speaker."""

    text: str
    start: int  # samples
    end: int
    misheard: str = ""
    """What the model takes it for at first."""
    until: int = 0
    """Length of the audio from which on it knows better."""

    def heard_in(self, n_samples: int) -> str:
        return self.misheard if self.misheard and n_samples < self.until else self.text


def pieces_of(word: str) -> list[tuple[int, int]]:
    """The tokens of a word, and how much of its text each one adds."""
    pieces = PIECES[word]
    if pieces[0].startswith("<"):
        return [(_IDS[piece], 0) for piece in pieces[:-1]] + [(_IDS[pieces[-1]], len(word))]
    return [(_IDS[piece], len(piece.removesuffix("@@"))) for piece in pieces]


def write(words: Sequence[tuple[str, int, int]], jitter: Sequence[int] = ()) -> Hypothesis:
    """Hypothesis of words with their times, which are off by so many samples in turn."""
    text, tokens, ends, edges = "", list[int](), list[int](), list[int]()
    for word, start, end in words:
        joined = join_at_border(text, word)
        position = len(joined) - len(word)
        pieces = pieces_of(word)
        for n, (token, length) in enumerate(pieces):
            position += length
            tokens.append(token)
            ends.append(position if length else len(text))
            span = end - start
            edges += [start + span * n // len(pieces), start + span * (n + 1) // len(pieces)]
        text = joined
    off = [edge + (jitter[n % len(jitter)] if jitter else 0) for n, edge in enumerate(edges)]
    ordered = [Samples(edge) for edge in accumulate((max(0, edge) for edge in off), max)]
    times = tuple(zip(ordered[::2], ordered[1::2], strict=True))
    return Hypothesis(text, "Chinese" if text else None, tuple(tokens), tuple(ends), times=times)


def hear(said: Sequence[Said], n_samples: int, jitter: Sequence[int] = ()) -> Hypothesis:
    """Hypothesis of the first samples: every word whose middle is in them."""
    words = [
        (word.heard_in(n_samples), word.start, min(word.end, n_samples))
        for word in said
        if (word.start + word.end) // 2 < n_samples
    ]
    return write(words, jitter)


def spell(words: Sequence[str]) -> str:
    """The text of some words."""
    text = ""
    for word in words:
        text = join_at_border(text, word)
    return text


@st.composite
def speeches(
    draw: st.DrawFn,
    *,
    shortest_s: float = 0.15,
    errs: bool = True,
    vocabulary: Sequence[str] = tuple(PIECES),
) -> list[Said]:
    """Some words, one behind the other, some of which are misheard for a while."""
    n_words = draw(st.integers(1, 14))
    spans = st.integers(to_samples(shortest_s), to_samples(shortest_s + 0.4))
    gaps = st.sampled_from([0, 0, 0, to_samples(0.3), SAMPLE_RATE])
    said: list[Said] = []
    for _ in range(n_words):
        start = (said[-1].end if said else 0) + draw(gaps)
        end = start + draw(spans)
        misheard, until = "", 0
        if errs and draw(st.booleans()):
            misheard = draw(st.sampled_from(vocabulary))
            until = end + draw(st.integers(0, 4 * SAMPLE_RATE))
        said.append(Said(draw(st.sampled_from(vocabulary)), start, end, misheard, until))
    return said


JITTERS: Final = st.lists(st.integers(-JITTER, JITTER), min_size=1, max_size=40)
"""Errors of times, in samples."""
