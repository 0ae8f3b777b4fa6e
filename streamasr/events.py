"""What the stages tell each other: facts, in the past tense.

Segmentation reports where speech starts, what it sounds like, and where it ends.
Segments are numbered from 1, ordered in time and never overlap.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from streamasr.units import Float32Array, Samples

EndReason: TypeAlias = Literal["silence", "length", "flush", "stop"]
"""Why a segment is over: the hangover passed without speech; it grew too long and was
cut; the client asked for its end; the stream is over."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """A new segment is open."""

    segment: int
    start: Samples
    """First sample of the segment, pre-roll included."""


@dataclass(frozen=True, slots=True, eq=False)  # an array has no truth value to compare by
class SpeechContinued:
    """The next samples of the open segment.

    The events of one segment are consecutive: the first starts where the segment does. The
    last may run past the segment's end, which is only known afterwards: by the hangover if
    silence ended it, by up to the whole search range if its length did. Trim to `SpeechEnded.end`.
    """

    segment: int
    start: Samples
    """Position of the first of these samples."""
    samples: Float32Array
    """(n,), mono at SAMPLE_RATE; the receiver owns them."""


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """The segment is over: it is exactly the samples [start, end)."""

    segment: int
    start: Samples
    end: Samples
    reason: EndReason


SegmentationEvent: TypeAlias = SpeechStarted | SpeechContinued | SpeechEnded


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The current best text of a segment."""

    text: str
    language: str | None
    """None when the model heard no speech."""
    tokens: tuple[int, ...]
    is_suspicious: bool = False
    """A guard had to end it: it may repeat itself or lack its end."""
