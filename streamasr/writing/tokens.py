"""Division of a text into words, marks and spaces, for the search for spoken commands."""

import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

_SINGLE: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
"""Scripts without spaces, where each character counts as a word: Chinese, Japanese, Thai, Lao,
Burmese, Khmer."""

_NO_SPACE: Final = re.compile(
    "[\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff9f"
    "\U00020000-\U0003ffff]"
)
"""Chinese and Japanese, including their punctuation."""

_APOSTROPHES: Final = "'’ʼ"

PAUSES: Final = frozenset(",.;:!?…，。；：！？、｡､؟،।")
"""Marks that a recogniser writes for a pause."""

SENTENCE_ENDS: Final = frozenset(".!?…。！？｡؟।")

OPENING: Final = frozenset("([{“‘„‚«‹¿¡（［｛「『【〔《〈")
CLOSING: Final = frozenset(")]}”’»›）］｝」』】〕》〉")
_LEFTWARD: Final = PAUSES | CLOSING | frozenset("%‰°")
_JOINERS: Final = frozenset("-/\\@_'·・‐‑\n\t—")

Kind = Literal["word", "mark"]


@dataclass(frozen=True, slots=True)
class Token:
    """Word, or a single mark."""

    text: str
    key: str
    """Normalised form, by which phrases are compared."""
    kind: Kind
    start: int
    end: int
    space: str
    """A space if white space comes before the token, otherwise empty."""


def find_tokens(text: str, start: int = 0) -> Iterator[Token]:
    """Yield the tokens of a text from a position on."""
    position, space = start, ""
    while position < len(text):
        kind = _kind(text[position])
        end = position + 1
        if kind == "space":
            position, space = end, " "
            continue
        if kind == "word":
            while end < len(text) and _kind(text[end]) == "word":
                end += 1
        yield _token(text[position:end], position, space, is_mark=kind == "mark")
        position, space = end, ""


def _token(text: str, start: int, space: str, *, is_mark: bool) -> Token:
    key = text if is_mark else word_key(text)
    return Token(text, key, "mark" if is_mark else "word", start, start + len(text), space)


@functools.lru_cache(maxsize=4096)
def word_key(word: str) -> str:
    """Return the normalised form of a word, by which words are compared."""
    return unicodedata.normalize("NFKC", word).casefold().strip(_APOSTROPHES).replace("’", "'")


@functools.lru_cache(maxsize=4096)
def _kind(char: str) -> Literal["space", "word", "single", "mark"]:
    if char.isspace() or unicodedata.category(char) == "Cc":
        return "space"
    if _SINGLE.match(char):
        return "single"
    if char in _APOSTROPHES or char == "_":
        return "word"
    return "mark" if unicodedata.category(char)[0] in "PS" else "word"


def is_closed(token: Token, text: str) -> bool:
    """Return whether text that follows can no longer extend the token."""
    return token.end < len(text) or token.kind == "mark" or _kind(token.text[-1]) == "single"


def phrase_tokens(phrase: str) -> tuple[str, ...]:
    """Return the keys of a phrase's words, without hyphens between them."""
    return tuple(token.key for token in find_tokens(phrase) if token.text != "-")


def joins_words(before: str, after: str) -> bool:
    """Return whether two texts follow each other without a space because of their scripts."""
    a, b = before[-1:], after[:1]
    if not (a and b):
        return True
    if _is_unspaced(a) and _is_unspaced(b):
        return True
    return any(_is_unspaced(c) and _kind(c) == "mark" for c in (a, b))


def _is_unspaced(char: str) -> bool:
    return bool(_NO_SPACE.match(char))


def usual_joins(text: str) -> tuple[bool, bool]:
    """Return whether a mark usually has no space on its left, and on its right."""
    first, last = text[0], text[-1]
    left = first in _LEFTWARD or first in _JOINERS or first.isspace()
    right = last in OPENING or last in _JOINERS or last.isspace()
    return left, right
