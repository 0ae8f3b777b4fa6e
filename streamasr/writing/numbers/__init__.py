"""Numbers as people write them: 二零二四年三月 -> 2024年3月, twenty three percent -> 23%.

    text -> replacements -> text, and words whose times span those of the words they replace

Conservative: what could be anything else than a number stays as it was said. Chinese has rules of
its own here. For English, `text2num` finds what is a number; which of them are written in digits,
and how percentages, money, times and years look, is decided here. Other languages stay as they are.
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
