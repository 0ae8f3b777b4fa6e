"""Length of the part of a growing text that has its final numbers; pure.

"twenty" may become "twenty three percent", so it waits for a word that is not part of a number.
"""

import re
from collections.abc import Callable
from typing import Final

from streamasr.writing.numbers.traditional import simplify
from streamasr.writing.rules import language_code

_CHINESE_ROW: Final = re.compile(
    "[零〇一二两三四五六七八九十百千万亿幺几数点分之比年月日号秒块度毛角周星期礼拜初正腊冬]+"
)
_CHINESE_REACH: Final = 12
"""Characters after numerals that may turn them into an idiom, or add a unit."""

_CHUNK: Final = re.compile(r"\S+\s+")


def settled_length(text: str, language: str | None) -> int:
    """Return the length of the prefix whose numbers later text cannot change.

    The result of `normalise_text` for this prefix is a prefix of its result for any longer text.
    """
    measure = _MEASURES.get(language_code(language))
    return measure(text) if measure else len(text)


def _settled_chinese(text: str) -> int:
    for match in _CHINESE_ROW.finditer(simplify(text)):
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
