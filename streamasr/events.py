"""What the stages tell each other.

Facts, in the past tense, go into the session: segmentation reports where speech starts, what it
sounds like, and where it ends; the encoder, the decoder and the aligner report their results.
Actions are what the session asks for; messages are what it publishes.

Segments are numbered from 1, ordered in time and never overlap.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, TypeAlias

from streamasr.transcript import Word
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
class SpeechPaused:
    """Silence followed the speech: if no more comes, the segment is exactly [start, end).

    Everything before `end` has been delivered.
    """

    segment: int
    end: Samples


@dataclass(frozen=True, slots=True)
class SpeechResumed:
    """Speech came back after a pause, before the hangover was over."""

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
    """Samples that were expected and never came: [start, end). No segment reaches into them."""

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
class Wishes:
    """What the listeners of a session want, from the next segment on."""

    language: str | None = None
    """The model's name of the language to force; None lets it detect that of each segment."""
    context: str = ""
    """Names and terms that may come up; empty for none."""
    partials: bool = True
    words: bool = True


@dataclass(frozen=True, slots=True)
class Configured:
    """The listeners' wishes have changed."""

    wishes: Wishes


@dataclass(frozen=True, slots=True, eq=False)
class FinalRestored:
    """A final that was published before a restart, whose words are still owed."""

    final: "Final"
    samples: Float32Array
    """Exactly the segment."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The current best text of a segment."""

    text: str
    language: str | None
    """None when the model heard no speech."""
    tokens: tuple[int, ...]
    """The answer without its end token, from the forced ones on."""
    ends: tuple[int, ...] = ()
    """(n_tokens,), never falling: how many code points of `text` stand for certain once this token
    is given, whatever tokens follow it. 0 for the header that names the language."""
    is_suspicious: bool = False
    """A guard had to end it: it may repeat itself or lack its end."""


class Rank(IntEnum):
    """What a pass is for; what is owed most goes first."""

    FINAL = 0
    SPECULATIVE = 1
    """The final, if the speaker has finished; a partial otherwise."""
    PARTIAL = 2


@dataclass(frozen=True, slots=True)
class Pass:
    """One run of a segment's audio through encoder and decoder; the segment may grow meanwhile."""

    segment: int
    number: int
    """Counts the passes of the session from 1."""
    rank: Rank = field(compare=False)
    """Until `Hurry` changes it."""


@dataclass(frozen=True, slots=True)
class DecoderCost:
    """Seconds that the decoder worked for one pass, waiting not counted."""

    prefill: float = 0.0
    """Reading the prompt and the audio."""
    verify: float = 0.0
    """Reading the text that is known or supposed already."""
    decode: float = 0.0
    """Finding the rest token by token."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.prefill + self.verify + self.decode


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """The encoder answered."""

    of: Pass
    embeddings: Float32Array
    """(n_tokens, n_embd)."""
    cost: float = 0.0
    """Seconds that the encoder worked on it, waiting not counted."""
    waited: float = 0.0
    """Seconds from the order to the answer in which the encoder did not work on it."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The decoder answered."""

    of: Pass
    hypothesis: Hypothesis
    cost: DecoderCost = DecoderCost()
    waited: float = 0.0
    """Seconds from the order to the answer in which the decoder did not work on it."""


@dataclass(frozen=True, slots=True)
class PassFailed:
    """The encoder or the decoder gave this pass up."""

    of: Pass
    message: str


@dataclass(frozen=True, slots=True)
class PassAbandoned:
    """The decoder stopped this pass because it was asked to."""

    of: Pass


@dataclass(frozen=True, slots=True)
class Aligned:
    """The aligner answered. Times count from the start of the session."""

    segment: int
    words: tuple[Word, ...]
    method: "AlignmentMethod"


AlignmentMethod: TypeAlias = Literal["aligned", "spread"]
"""Whether word times were heard by the aligner, or spread evenly because it could not."""

Answer: TypeAlias = Encoded | Decoded | PassFailed | PassAbandoned | Aligned
"""What the engine reports about what it was asked for."""

SessionEvent: TypeAlias = SegmentationEvent | StreamEnded | Configured | FinalRestored | Answer


@dataclass(frozen=True, slots=True, eq=False)
class Encode:
    """Compute the embeddings of these samples; answer with `Encoded` or `PassFailed`."""

    of: Pass
    samples: Float32Array
    """(n,), the segment from its start. Those of a later pass begin with the same samples, or with
    fewer of them."""
    wants_words: bool = True
    """Whether the aligner will be asked for this segment's words."""


@dataclass(frozen=True, slots=True, eq=False)
class Decode:
    """Decode these embeddings; answer with `Decoded`, `PassFailed` or `PassAbandoned`."""

    of: Pass
    embeddings: Float32Array
    language: str | None = None
    """The name of a language to force."""
    context: str = ""
    forced: tuple[int, ...] = ()
    """Tokens that the answer must begin with: they have been promised to the listeners."""
    draft: tuple[int, ...] = ()
    """Tokens that the answer probably has, from its beginning: those of the last hypothesis."""


@dataclass(frozen=True, slots=True)
class AbandonPass:
    """Nobody waits for this pass any longer; stop it if it is being decoded."""

    of: Pass


@dataclass(frozen=True, slots=True)
class Hurry:
    """The speaker has finished: this speculative pass is the segment's final now."""

    of: Pass


@dataclass(frozen=True, slots=True)
class Release:
    """No more passes over this segment come; what is kept for them can go."""

    segment: int


@dataclass(frozen=True, slots=True, eq=False)
class Align:
    """Find the times of the words of a final; answer with `Aligned`."""

    segment: int
    start: Samples
    samples: Float32Array
    """Exactly the segment, [start, end)."""
    text: str
    language: str | None


@dataclass(frozen=True, slots=True)
class SpreadWords:
    """Words that still wait for the aligner come too late: spread them over their segments."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Tell the listeners."""

    message: "Message"
    seq: int | None = None
    """Number of a message that is kept; counts from 1 in each session, without holes."""


Order: TypeAlias = Encode | Decode | AbandonPass | Hurry | Release | Align | SpreadWords
"""What the engine can do."""

Action: TypeAlias = Order | Publish


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
    """How many code points of `text` begin every later partial and the final."""
    language: str | None
    start: Samples
    end: Samples


@dataclass(frozen=True, slots=True)
class Promise:
    """The stable beginning of an open segment: listeners rely on it, also through a restart."""

    segment: int
    start: Samples
    text: str
    forced: tuple[int, ...]
    """The tokens that it takes to keep it."""


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
    """Audio that is covered by no final, and why."""

    start: Samples
    end: Samples
    reason: str


@dataclass(frozen=True, slots=True)
class End:
    """Nothing more comes, and so much came."""

    duration: Samples
    segments: int
    """Finals."""
    words: int


Durable: TypeAlias = Final | Words | Gap | End
"""Messages that have a number, are kept, and can be sent again."""

Message: TypeAlias = Speech | Partial | Durable
