"""What a part of a text is replaced by."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Replacement:
    """New text for the characters [start, end)."""

    start: int
    end: int
    text: str


def replaced(text: str, replacements: Iterable[Replacement]) -> str:
    """A text with its replacements made; they are ordered and disjoint."""
    parts, position = [], 0
    for one in replacements:
        parts += [text[position : one.start], one.text]
        position = one.end
    return "".join([*parts, text[position:]])
