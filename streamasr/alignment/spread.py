"""Word times without an aligner: a segment's duration divided among its words."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from streamasr.alignment.repair import Span, repair_lengths
from streamasr.alignment.words import AlignableWord, split_words, text_width
from streamasr.core.transcript import Segment, Word
from streamasr.core.units import SAMPLE_RATE, Samples

_PER_MS: Final = SAMPLE_RATE // 1000  # samples


def spread_words(words: Sequence[AlignableWord], start: int, end: int) -> list[Span]:
    """Divide a stretch of time among words, by the width of their spoken forms.

    It is used without an aligner, or for audio longer than its classes reach. An ideograph counts
    as two letters.

    Args:
        words: (n,).
        start: of the first word, milliseconds.
        end: of the last, milliseconds.

    Returns:
        (n,) spans without gaps; each has a length if there are at least n milliseconds.
    """
    if not words:
        return []
    reached = [0, *accumulate(max(1, text_width(word.spoken)) for word in words)]
    marks = [(end - start) * mark // reached[-1] for mark in reached]
    spans = repair_lengths(list(pairwise(marks)), end - start)
    return [(start + a, start + b) for a, b in spans]


def time_words(
    words: Sequence[AlignableWord],
    spans: Sequence[Span],
    confidences: Sequence[float | None],
    start: Samples,
) -> tuple[Word, ...]:
    """Bring a segment's words together with their times.

    Args:
        words: (n,), from `split_words`.
        spans: (n,), milliseconds from the segment's start.
        confidences: (n,).
        start: of the segment.
    """
    return tuple(
        Word(
            text=word.display,
            start=Samples(start + begin * _PER_MS),
            end=Samples(start + end * _PER_MS),
            confidence=confidence,
            space_after=word.space_after,
        )
        for word, (begin, end), confidence in zip(words, spans, confidences, strict=True)
    )


def guess_words(segment: Segment) -> tuple[Word, ...]:
    """Spread a segment's words over its time."""
    words = split_words(segment.text, segment.language)
    spans = spread_words(words, 0, (segment.end - segment.start) // _PER_MS)
    return time_words(words, spans, [None] * len(words), segment.start)
