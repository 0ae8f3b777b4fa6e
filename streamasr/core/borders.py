"""Borders of words in text: where a text may be cut, and how two parts are put together; pure.

Han characters, kana and their punctuation stand without spaces, each a word of its own. Everything
else falls into words at white space.
"""

import re
import unicodedata
from typing import Final

CJK: Final = "[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff9f\U00020000-\U0003ffff]"
"""Chinese and Japanese characters, their punctuation included, as a pattern."""

_CJK: Final = re.compile(CJK)

_CLOSING: Final = frozenset(",.;:!?…%)]}»”’")
"""Marks that follow a word without a space."""


def is_word_border(text: str, position: int) -> bool:
    """Return True if `text[:position]` ends with a whole word, whatever follows the text.

    At the end of the text only a Chinese or Japanese character is certainly whole: the next token
    may continue any other word.
    """
    if position <= 0:
        return True
    if position >= len(text):
        return _is_cjk(text[-1:])
    before, after = text[position - 1], text[position]
    if unicodedata.category(after).startswith("M"):  # belongs to the character before it
        return False
    return before.isspace() or after.isspace() or _is_cjk(before) or _is_cjk(after)


def join_at_border(before: str, after: str) -> str:
    """Put two texts together that are cut at word borders.

    Both stay as they are, except for white space around the join: none goes between Chinese or
    Japanese characters or before a closing mark, one space between other words.
    """
    after = after.lstrip()
    if not before or not after or before[-1].isspace() or after[0] in _CLOSING:
        return before + after
    if _is_cjk(before[-1]) and _is_cjk(after[0]):
        return before + after
    return f"{before} {after}"


def _is_cjk(character: str) -> bool:
    return _CJK.match(character) is not None
