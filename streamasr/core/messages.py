"""Messages that a session publishes to its listeners.

Positions are samples of the session's own clock. Segments are numbered from 1, ordered in time and
disjoint.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from streamasr.core.transcript import Word
from streamasr.core.units import Samples

EndReason: TypeAlias = Literal["silence", "length", "flush", "stop"]
"""Reason of a segment's end: the hangover passed without speech; the segment grew too long and was
cut; the client asked for its end; the stream is over."""


AlignmentMethod: TypeAlias = Literal["aligned", "ctc", "cif", "spread"]
"""Origin of word times: the aligner, the recogniser's own CTC or CIF times, or, where neither is
known, the length of the segment, spread evenly over its words."""


@dataclass(frozen=True, slots=True)
class Speech:
    """A segment began."""

    segment: int
    start: Samples


@dataclass(frozen=True, slots=True)
class Partial:
    """The text of an open segment so far; the next one may change what is not stable of it."""

    segment: int
    text: str
    stable: int
    """Number of code points of `text` that begin every later partial and the final."""
    language: str | None
    start: Samples
    end: Samples


@dataclass(frozen=True, slots=True)
class Final:
    """The text of a segment. It never changes. Empty when the model heard no speech in it."""

    segment: int
    text: str
    language: str | None
    start: Samples
    end: Samples
    reason: EndReason


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a segment with their times, after its final."""

    segment: int
    words: tuple[Word, ...]
    method: AlignmentMethod


@dataclass(frozen=True, slots=True)
class Gap:
    """Audio without a final, and the reason."""

    start: Samples
    end: Samples
    reason: str


@dataclass(frozen=True, slots=True)
class End:
    """The stream is over; its totals."""

    duration: Samples
    segments: int
    """Finals."""
    words: int


Durable: TypeAlias = Final | Words | Gap | End
"""Messages that have a number, are stored, and can be sent again."""


Message: TypeAlias = Speech | Partial | Durable
