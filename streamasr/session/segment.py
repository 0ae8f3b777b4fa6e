"""A segment whose final or words are still owed, and the pass over it that is on its way."""

from dataclasses import dataclass, field, replace
from typing import TypeAlias

from streamasr.core.events import SpeechEnded
from streamasr.core.growable import Recording
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.messages import Final, Gap
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Pass, Rank
from streamasr.core.units import Float32Array, Samples
from streamasr.session.stable_prefix import StablePrefix

Outcome: TypeAlias = Final | Gap


@dataclass(slots=True)
class PassInFlight:
    """A pass that was asked for and is awaited."""

    of: Pass
    """With the rank that it has by now."""
    n_samples: int
    """Of the segment, from its start."""
    is_promoted: bool = False
    """It began as a speculative one and is the final now."""
    n_draft: int = 0
    """Tokens that were forced or drafted."""

    @property
    def is_final(self) -> bool:
        """Whether the segment's final comes of it."""
        return self.of.rank is Rank.FINAL

    def promote(self) -> None:
        """The segment has ended just there."""
        self.of, self.is_promoted = replace(self.of, rank=Rank.FINAL), True


@dataclass(slots=True)
class Pause:
    """A silence in the segment that may turn out to be its end."""

    n_samples: int
    """Of the segment, if it is."""
    prepared: Hypothesis | None = None
    """The final text, if it is."""
    is_hopeless: bool = False
    """It was tried in vain."""


@dataclass(slots=True)
class Segment:
    """What is known of a segment."""

    number: int
    start: Samples
    options: SessionOptions
    stable: StablePrefix
    recording: Recording = field(default_factory=Recording)
    flight: PassInFlight | None = None
    n_asked: int = 0
    """Samples of the newest pass."""
    tokens: tuple[int, ...] = ()
    """Of the newest hypothesis, whatever became of it."""
    n_decoded: int = 0
    """Samples behind those tokens."""
    hypothesis: Hypothesis | None = None
    """The newest that has text and keeps what was promised."""
    n_heard: int = 0
    """Samples behind that hypothesis."""
    pause: Pause | None = None
    ended: SpeechEnded | None = None
    outcomes: tuple[Outcome, ...] | None = None
    """Once they are known."""
    awaits_words: bool = False
    """Its final is out."""

    @property
    def is_awaited(self) -> bool:
        """Whether its final is owed."""
        return self.ended is not None and self.outcomes is None

    @property
    def draft(self) -> tuple[int, ...]:
        """Tokens that the next hypothesis probably begins with; they keep what was promised."""
        forced = self.stable.forced
        return self.tokens if self.tokens[: len(forced)] == forced else ()

    def samples_until(self, end: Samples) -> Float32Array:
        """From its start to a position."""
        return self.recording.first(end - self.start)

    def final(self, hypothesis: Hypothesis) -> Final:
        """The final that a hypothesis makes."""
        ended = self.ended
        assert ended is not None, "a final is owed from the end of the segment on"
        text, language = hypothesis.text, hypothesis.language
        return Final(self.number, text, language, ended.start, ended.end, ended.reason)
