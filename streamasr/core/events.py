"""Events that a session receives: borders of speech, and answers of the engine."""

from dataclasses import asdict, dataclass
from typing import TypeAlias

from streamasr.core.hypothesis import Hypothesis
from streamasr.core.messages import AlignmentMethod, EndReason, Final
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Pass
from streamasr.core.punctuation import Marks
from streamasr.core.transcript import Word
from streamasr.core.units import Float32Array, Samples


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """A new segment is open."""

    segment: int
    start: Samples
    """First sample of the segment, pre-roll included."""


@dataclass(frozen=True, slots=True, eq=False)  # an array has no truth value to compare by
class SpeechContinued:
    """The next samples of the open segment.

    The events of one segment are consecutive, and the first starts where the segment does. The last
    may run past the segment's end, which is known only afterwards: by the hangover if silence ended
    it, by up to the whole search range if its length did. Trim to `SpeechEnded.end`.
    """

    segment: int
    start: Samples
    """Position of the first of these samples."""
    samples: Float32Array
    """(n,), mono at SAMPLE_RATE; the receiver owns them."""


@dataclass(frozen=True, slots=True)
class SpeechPaused:
    """Silence follows the speech: if no more speech comes, the segment is exactly [start, end).

    All samples before `end` have been delivered.
    """

    segment: int
    end: Samples


@dataclass(frozen=True, slots=True)
class SpeechResumed:
    """Speech resumed after a pause, before the hangover was over."""

    segment: int


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """The segment is over: it is exactly the samples [start, end)."""

    segment: int
    start: Samples
    end: Samples
    reason: EndReason


@dataclass(frozen=True, slots=True)
class AudioLost:
    """The samples [start, end) were expected and never came. No segment reaches into them."""

    start: Samples
    end: Samples
    reason: str


SegmentationEvent: TypeAlias = (
    SpeechStarted | SpeechContinued | SpeechPaused | SpeechResumed | SpeechEnded | AudioLost
)


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """No more audio comes; all segments have ended."""

    duration: Samples
    """Length of the whole stream."""


@dataclass(frozen=True, slots=True)
class Configured:
    """The client changed the options of the session."""

    options: SessionOptions


@dataclass(frozen=True, slots=True, eq=False)
class FinalRestored:
    """A final was published before a restart, and its words are still owed."""

    final: Final
    samples: Float32Array
    """Exactly the segment."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of work on one pass, by kind, waiting not counted."""

    encode: float = 0.0
    """Features and acoustic model."""
    prefill: float = 0.0
    """Reading the prompt and the audio."""
    verify: float = 0.0
    """Reading the text that is known or supposed already."""
    decode: float = 0.0
    """Finding the rest token by token."""
    punctuate: float = 0.0
    """Finding the marks of the text."""

    @property
    def total(self) -> float:
        """Return the sum of all kinds."""
        return self.encode + self.prefill + self.verify + self.decode + self.punctuate

    def of_stages(self) -> dict[str, float]:
        """Return the seconds by kind, without the kinds that took none."""
        return {kind: seconds for kind, seconds in asdict(self).items() if seconds}


@dataclass(frozen=True, slots=True)
class Recognised:
    """A pass has its hypothesis."""

    of: Pass
    hypothesis: Hypothesis
    costs: Costs = Costs()
    waited: float = 0.0
    """Seconds from the order to the answer in which no stage worked on it."""


@dataclass(frozen=True, slots=True)
class Punctuated:
    """The text of a pass has its punctuation, or none if nothing can punctuate it."""

    of: Pass
    marks: Marks
    costs: Costs = Costs()
    waited: float = 0.0
    """As of `Recognised`."""


@dataclass(frozen=True, slots=True)
class PassFailed:
    """A stage could not complete this pass."""

    of: Pass
    message: str


@dataclass(frozen=True, slots=True)
class PassAbandoned:
    """The engine gave this pass up because of an order."""

    of: Pass


@dataclass(frozen=True, slots=True)
class Aligned:
    """The words of a final have their times, which count from the start of the session."""

    segment: int
    words: tuple[Word, ...]
    method: AlignmentMethod


Answer: TypeAlias = Recognised | Punctuated | PassFailed | PassAbandoned | Aligned
"""Answers of the engine to orders."""


SessionEvent: TypeAlias = SegmentationEvent | StreamEnded | Configured | FinalRestored | Answer
