"""Words of a text, and their times: repaired from an aligner's answer, or spread evenly."""

from streamasr.alignment.repair import MIN_WORD_MS, Span, repair_times, word_confidence
from streamasr.alignment.spread import guess_words, spread_words, time_words
from streamasr.alignment.words import AlignableWord, split_words

__all__ = [
    "MIN_WORD_MS",
    "AlignableWord",
    "Span",
    "guess_words",
    "repair_times",
    "split_words",
    "spread_words",
    "time_words",
    "word_confidence",
]
