"""A made-up punctuation model that changes its mind about every mark with every word."""

import zlib

from streamasr.core.punctuation import Mark, Marks
from streamasr.models.ct_punc.text import mark_behind, words_of

_CHOICES = ("", "", "，", "。", "？", "、")

WRITTEN = frozenset("，。？、,.?")


def find_marks(text: str) -> Marks:
    """The marks of a text; they depend on all of it."""
    words = list(words_of(text))
    if not words:
        return Marks()
    each = [
        Mark(end, mark_behind(word, _CHOICES[zlib.crc32(f"{text}{end}".encode()) % 6]))
        for word, end in words
    ]
    return Marks(tuple(each), mark_behind(words[-1][0], "。"))


def unmarked(text: str) -> str:
    """A text with marks as it was before, but for capital letters."""
    return "".join(character for character in text if character not in WRITTEN).lower()
