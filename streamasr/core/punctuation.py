"""Punctuation that a model of its own adds to a text, as marks at positions of that text."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SENTENCE_ENDS: Final = frozenset("。？！.?!")

_FIRST_LETTER: Final = re.compile(r"\S")


@dataclass(frozen=True, slots=True)
class Mark:
    """Decision about the place behind one word."""

    end: int
    """Code points of the unpunctuated text up to the end of the word."""
    text: str
    """The mark; empty for none."""

    @property
    def ends_sentence(self) -> bool:
        """Return True if the next word begins a sentence."""
        return self.text[-1:] in SENTENCE_ENDS


@dataclass(frozen=True, slots=True)
class Marks:
    """Punctuation of one text."""

    each: tuple[Mark, ...] = ()
    """One for each word, in order; empty where nothing could punctuate the text."""
    closing: str = ""
    """Mark behind the last word if the text ends there, in place of that in `each`."""


def marked_text(text: str, marks: Iterable[Mark]) -> str:
    """Return a text with its marks, and a capital letter where a sentence begins with an ASCII one.

    Args:
        text: without marks, from the beginning of a sentence.
        marks: in the order of their places.
    """
    parts: list[str] = []
    begin, begins_sentence = 0, True
    for mark in marks:
        if not mark.text:
            continue
        piece = text[begin : mark.end]
        parts += [_capitalised(piece) if begins_sentence else piece, mark.text]
        begin, begins_sentence = mark.end, mark.ends_sentence
    piece = text[begin:]
    return "".join([*parts, _capitalised(piece) if begins_sentence else piece])


def _capitalised(text: str) -> str:
    found = _FIRST_LETTER.search(text)
    if found is None or not found[0].isascii():
        return text
    return text[: found.start()] + found[0].upper() + text[found.end() :]
