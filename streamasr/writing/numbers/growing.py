"""How much of a text that is still growing has its numbers for certain; pure.

"twenty" may become "twenty three percent", so it waits for a word that belongs to no number.
"""

import re
from collections.abc import Callable
from typing import Final

from streamasr.writing.numbers.traditional import simplified
from streamasr.writing.rules import language_code

_CHINESE_ROW: Final = re.compile(
    "[零〇一二两三四五六七八九十百千万亿幺几数点分之比年月日号秒块度毛角周星期礼拜初正腊冬]+"
)
_CHINESE_REACH: Final = 12
"""Characters after numerals that may make an idiom or a unit of them."""

_CHUNK: Final = re.compile(r"\S+\s+")


def settled_length(text: str, language: str | None) -> int:
    """How many characters of a text are such that what follows changes nothing before them.

    What `normalise_text` makes of them begins what it makes of every longer text.
    """
    measure = _MEASURES.get(language_code(language))
    return measure(text) if measure else len(text)


def _settled_chinese(text: str) -> int:
    for match in _CHINESE_ROW.finditer(simplified(text)):
        after = text[match.end() : match.end() + _CHINESE_REACH]
        is_over = len(after) == _CHINESE_REACH or any(not char.isalnum() for char in after)
        if not is_over:
            return match.start()
    return len(text)


def _settled_english(text: str) -> int:
    from streamasr.writing.numbers.english import may_belong_to_number

    chunks = list(_CHUNK.finditer(text))
    while chunks and may_belong_to_number(chunks[-1][0]):
        chunks.pop()
    return chunks[-1].end() if chunks else 0


_MEASURES: Final[dict[str, Callable[[str], int]]] = {
    "zh": _settled_chinese,
    "en": _settled_english,
}
