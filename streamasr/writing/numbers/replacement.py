"""Replacements of parts of a text."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Replacement:
    """Replacement of the characters [start, end) by a text."""

    start: int
    end: int
    text: str


def apply_replacements(text: str, replacements: Iterable[Replacement]) -> str:
    """Apply replacements, which are ordered and disjoint, to a text."""
    parts, position = [], 0
    for each in replacements:
        parts += [text[position : each.start], each.text]
        position = each.end
    return "".join([*parts, text[position:]])
