"""Words of a text as the model counts them, and the form of the marks behind them; pure.

An ASCII word between white space is one word, any other character is one by itself. The model
knows Chinese marks only; a word in ASCII gets the ASCII form.

Source: `split_words` and the end of `CTTransformer.inference` in funasr 1.4.16, which leaves the
enumeration comma behind a word in ASCII as it is; here it is a comma, as in English.
"""

import re
from collections.abc import Iterator
from typing import Final

from streamasr.models.ct_punc.names import COMMA, PAUSE, PERIOD, QUESTION

_WORD: Final = re.compile(r"[^\s\x80-\U0010ffff]+|[^\s\x00-\x7f]")

_ASCII_FORM: Final = {COMMA: ",", PAUSE: ",", PERIOD: ".", QUESTION: "?"}


def words_of(text: str) -> Iterator[tuple[str, int]]:
    """Yield each word with its end in the text."""
    for found in _WORD.finditer(text):
        yield found[0], found.end()


def mark_behind(word: str, mark: str) -> str:
    """Return a mark in the form that it has behind a word."""
    return _ASCII_FORM.get(mark, mark) if word[0].isascii() else mark
