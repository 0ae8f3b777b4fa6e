"""Actions that a session asks for: orders to the engine, and messages to publish."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from streamasr.core.messages import Message
from streamasr.core.units import Float32Array, Samples


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
    """Until `Promote` changes it."""


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
class Promote:
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

    message: Message
    seq: int | None = None
    """Number of a message that is kept; counts from 1 in each session, without holes."""


Order: TypeAlias = Encode | Decode | AbandonPass | Promote | Release | Align | SpreadWords
"""What the engine can do."""


Action: TypeAlias = Order | Publish
