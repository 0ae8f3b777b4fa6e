"""Spoken numbers in digits: 二零二四年三月 -> 2024年3月, twenty three percent -> 23%.

    text -> replacements -> text, and words whose times span those of the words they replace

The conversion is conservative: text that could be anything else than a number stays unchanged.
Chinese has rules of its own here. For English, `text2num` finds the numbers; this package decides
which of them are written in digits, and the form of percentages, money, times and years. Text in
other languages stays unchanged.
"""

from streamasr.writing.numbers.growing import settled_length
from streamasr.writing.numbers.normalise import (
    normalise_segment,
    normalise_segments,
    normalise_text,
    normalise_words,
)

__all__ = [
    "normalise_segment",
    "normalise_segments",
    "normalise_text",
    "normalise_words",
    "settled_length",
]
