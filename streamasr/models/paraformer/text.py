"""Text of Paraformer's tokens; pure.

    tokens   今 天 用 a s r 识 别 he@@ llo world
    text     今天用ASR识别hello world

* Chinese characters and digits stand without spaces, also beside Latin words.
* A token that ends with `@@` is joined to the next one.
* A space goes between two Latin words.
* Single letters in a row are one word in capitals; a letter alone stays as it is.
* Anything else (punctuation, symbols) is added as it is, behind a space if a Latin word ends there.

While a segment grows, a letter alone is not certain before the next token: it may be the first of a
word in capitals. `ends` says so.

Source: `sentence_postprocess` of FunASR without times. It differs in what FunASR loses: a piece
with `@@` before a Chinese character or at the end is kept here, and so is a symbol between a Latin
word and a Chinese character.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from streamasr.core.borders import CJK

CHINESE: Final = "Chinese"
ENGLISH: Final = "English"

_JOINED: Final = "@@"
_CHINESE_TEXT: Final = re.compile(f"(?:{CJK}|[0-9])+")
_CJK: Final = re.compile(CJK)


@dataclass(frozen=True, slots=True)
class TokenText:
    """Text of some tokens."""

    text: str
    ends: tuple[int, ...]
    """(n_tokens,): code points that stand for certain with this token, whatever follows."""

    @property
    def language(self) -> str | None:
        """Language in which most of it seems to be; None without text."""
        if not self.text:
            return None
        is_english = any(map(str.isalpha, self.text)) and not _CJK.search(self.text)
        return ENGLISH if is_english else CHINESE


def text_of(tokens: Iterable[str]) -> TokenText:
    """Put tokens together.

    Args:
        tokens: without those that stand for no text.
    """
    text, ends = "", []
    ends_word = is_open = False  # of the token before
    n_letters = 0  # in the row that the token before belongs to
    for token in tokens:
        body = token.replace(_JOINED, "")
        is_joined, is_open = is_open, _JOINED in token
        is_latin = is_latin_word(body)
        is_letter = is_latin and len(body) == 1 and body.isascii() and body.isalpha()
        n_letters = n_letters + 1 if is_letter and not (is_joined or is_open) else 0
        before = len(text)
        if n_letters > 1:
            text = text[:-1] + text[-1].upper() + body.upper()
        else:
            needs_space = ends_word and not _CHINESE_TEXT.fullmatch(body)
            text += f" {body}" if needs_space else body
        ends.append(before if n_letters == 1 else len(text))
        ends_word = is_latin and not is_open
    return TokenText(text, tuple(ends))


def is_latin_word(text: str) -> bool:
    """Return True for letters and apostrophes that are written with spaces between words."""
    is_spaced = all(character.isalpha() or character == "'" for character in text)
    return bool(text) and is_spaced and not _CJK.search(text)


def join_texts(before: str, after: str) -> str:
    """Put two texts together that are cut at word borders; see `Join`."""
    after = after.lstrip()
    needs_space = is_latin_word(before[-1:]) and is_latin_word(after[:1])
    return f"{before} {after}" if needs_space else before + after
