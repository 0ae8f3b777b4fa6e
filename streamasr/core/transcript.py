"""Text with its times: the values that every output format is made from.

Positions are samples from the start of the file, as everywhere inside the program; formats
turn them into seconds.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from streamasr.core.borders import CJK
from streamasr.core.units import Samples, to_seconds

_CJK_SEAM: Final = re.compile(f"(?<={CJK})\n(?={CJK})")
"""Chinese or Japanese characters, their punctuation included, on both sides of a join."""


@dataclass(frozen=True, slots=True)
class Word:
    """The reader's unit; in Chinese a character."""

    text: str
    """As written, with the punctuation that belongs to it."""
    start: Samples
    end: Samples
    confidence: float | None
    """Confidence of the aligner in the times, 0..1; None for other origins of the times."""
    space_after: bool = True
    """White space follows in the segment's text."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Speech between two endpoints: the unit of recognition."""

    id: int
    start: Samples
    end: Samples
    language: str | None
    """English name as the model gives it; None where it heard no speech."""
    text: str
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Transcript:
    """Everything that was recognised in one file."""

    file: str
    model: str
    duration: Samples
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """Return the texts of all segments as one."""
        return join_texts(segment.text for segment in self.segments)

    @property
    def language(self) -> str | None:
        """Return the language of most of the speech by duration; of equals the first."""
        spoken: Counter[str] = Counter()
        for segment in self.segments:
            if segment.language is not None:
                spoken[segment.language] += segment.end - segment.start
        return max(spoken, key=spoken.__getitem__, default=None)


def join_texts(texts: Iterable[str]) -> str:
    """Join the texts of successive segments.

    A space goes between two of them, unless Chinese or Japanese stands on both sides.
    """
    lines = [" ".join(text.split()) for text in texts]
    joined = "\n".join(line for line in lines if line)
    return _CJK_SEAM.sub("", joined).replace("\n", " ")


def join_words(words: Sequence[Word]) -> str:
    """Rebuild the text that successive words of one segment come from."""
    return "".join(word.text + " " * word.space_after for word in words).rstrip(" ")


def seconds(position: Samples) -> float:
    """Return a position in seconds with three decimals, as people and files read it."""
    return round(to_seconds(position), 3)
