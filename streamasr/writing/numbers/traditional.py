"""Conversion between traditional and simplified characters in numbers; pure."""

from typing import Final

_TRADITIONAL: Final = (
    "萬億兩點幾數負個塊號週禮臘鐘時歲級噸釐還較輕長遠賽強計變羅漢層獄飛東麗髮裡順歸紀國開間慶黃蘭裏"
)
_SIMPLIFIED: Final = (
    "万亿两点几数负个块号周礼腊钟时岁级吨厘还较轻长远赛强计变罗汉层狱飞东丽发里顺归纪国开间庆黄兰里"
)
_TO_SIMPLIFIED: Final = str.maketrans(_TRADITIONAL, _SIMPLIFIED)


def simplify(text: str) -> str:
    """Replace traditional numerals, units and idioms by simplified ones, of the same length."""
    return text.translate(_TO_SIMPLIFIED)


def restore_traditional(original: str, written: str) -> str:
    """Write a replacement with the characters of the original: 300萬 for 三百萬.

    Args:
        original: recognised text.
        written: its replacement, in simplified characters.
    """
    kept = {char.translate(_TO_SIMPLIFIED): char for char in original}
    return "".join(kept.get(char, char) for char in written)
