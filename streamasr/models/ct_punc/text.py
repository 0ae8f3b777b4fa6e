"""Words of a text as the model counts them, and the form of the marks behind them; pure.

An ASCII word between white space is one word, any other character is one by itself. A vocabulary
that consists of words has Chinese divided into those (see `segmentation`). The model knows Chinese
marks only; a word in ASCII gets the ASCII form.

Source: `split_words` and the end of `CTTransformer.inference` in funasr 1.4.16, which leaves the
enumeration comma behind a word in ASCII as it is; here it is a comma, as in English.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final, TypeAlias

from streamasr.models.ct_punc.names import COMMA, PAUSE, PERIOD, QUESTION

_WORD: Final = re.compile(r"[^\s\x80-\U0010ffff]+|[^\s\x00-\x7f]")

_PIECE: Final = re.compile(r"([a-zA-Z']+)(?!\S)|\S+")
"""What is between white space; the group is there if it is an English word."""

Divide: TypeAlias = Callable[[str], Iterable[str]]
"""Divides a text without white space into words."""

_ASCII_FORM: Final = {COMMA: ",", PAUSE: ",", PERIOD: ".", QUESTION: "?"}


def words_of(text: str, divide: Divide | None = None) -> Iterator[tuple[str, int]]:
    """Yield each word with its end in the text.

    Args:
        text: without marks.
        divide: divides Chinese into words; None takes each character as one.
    """
    if divide is None:
        yield from ((found[0], found.end()) for found in _WORD.finditer(text))
        return
    for is_english, pieces in groupby(_PIECE.finditer(text), lambda piece: bool(piece[1])):
        if is_english:
            yield from ((piece[0], piece.end()) for piece in pieces)
        else:
            yield from _divided([*pieces], divide)


def _divided(pieces: Sequence[re.Match[str]], divide: Divide) -> Iterator[tuple[str, int]]:
    """Divide pieces that are read without the white space between them."""
    ends = [end for piece in pieces for end in range(piece.start() + 1, piece.end() + 1)]
    n_read = 0
    for word in divide("".join(piece[0] for piece in pieces)):
        n_read += len(word)
        yield word, ends[n_read - 1]


def mark_behind(word: str, mark: str) -> str:
    """Return a mark in the form that it has behind a word."""
    return _ASCII_FORM.get(mark, mark) if word[0].isascii() else mark
