"""Actions that a session asks for: orders to the engine, and messages to publish."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from streamasr.core.hypothesis import TokenTimes
from streamasr.core.messages import Message
from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array, Samples


class Rank(IntEnum):
    """Purpose of a pass; lower ranks go first."""

    FINAL = 0
    SPECULATIVE = 1
    """The final, if the speaker has finished; a partial otherwise."""
    PARTIAL = 2


@dataclass(frozen=True, slots=True)
class Pass:
    """One run of a segment's audio through the engine; the segment may grow meanwhile."""

    segment: int
    number: int
    """Counts the passes of the session from 1."""
    rank: Rank = field(compare=False)
    """Until `Promote` changes it."""


@dataclass(frozen=True, slots=True, eq=False)
class Recognise:
    """Find the text of these samples.

    Answered by exactly one of `Recognised`, `PassFailed` and `PassAbandoned`.
    """

    of: Pass
    samples: Float32Array
    """(n,), the segment from its start. Those of a later pass begin with the same samples, or with
    fewer of them."""
    options: SessionOptions = SessionOptions()  # noqa: RUF009 - frozen
    forced: tuple[int, ...] = ()
    """Tokens that the answer must begin with, because their text is stable."""
    draft: tuple[int, ...] = ()
    """Tokens that the answer probably has, from its beginning: those of the last hypothesis."""


@dataclass(frozen=True, slots=True)
class Punctuate:
    """Find the punctuation of the text of a pass, as the last part of the pass.

    Answered by exactly one of `Punctuated` and `PassAbandoned`.
    """

    of: Pass
    text: str
    """Without punctuation, from the beginning of a sentence."""
    language: str | None


@dataclass(frozen=True, slots=True)
class AbandonPass:
    """Give a pass up in any stage; answer with `PassAbandoned` if it has no answer yet."""

    of: Pass


@dataclass(frozen=True, slots=True)
class Promote:
    """Treat a speculative pass as that of the segment's final from now on."""

    of: Pass


@dataclass(frozen=True, slots=True)
class Release:
    """Free what is kept for passes over this segment; no more of them come."""

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
    ends: tuple[int, ...] = ()
    """(n_tokens,): end of each token in `text`; empty where their times are not known."""
    times: TokenTimes = ()
    """(n_tokens,): for families that give the times of words themselves."""


@dataclass(frozen=True, slots=True)
class SpreadWords:
    """Spread the words that still wait for the aligner over their segments."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Send a message to the listeners."""

    message: Message
    seq: int | None = None
    """Number of a durable message; counts from 1 in each session, without holes."""


Order: TypeAlias = Recognise | Punctuate | AbandonPass | Promote | Release | Align | SpreadWords
"""Orders to the engine."""


Action: TypeAlias = Order | Publish
