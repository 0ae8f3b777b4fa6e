"""One segment whose final or words are still owed, and its pass in flight."""

from dataclasses import dataclass, field, replace
from typing import TypeAlias

from streamasr.core.events import SpeechEnded
from streamasr.core.growable import GrowingSamples
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.messages import Final, Gap
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Align, Pass, Rank
from streamasr.core.units import Float32Array, Samples
from streamasr.session.cadence import Work
from streamasr.session.joining import Continuation
from streamasr.session.punctuation import DecidedMarks, Marked
from streamasr.session.stable_prefix import StablePrefix

Outcome: TypeAlias = Final | Gap


@dataclass(frozen=True, slots=True)
class Recognition:
    """Hypothesis of a pass."""

    tokens: tuple[int, ...]
    """As the model gave them."""
    continuation: Continuation
    """What the stable text makes of the hypothesis."""
    work: Work


@dataclass(slots=True)
class PassInFlight:
    """A pass that was ordered and has no answer yet."""

    of: Pass
    """With its present rank."""
    n_samples: int
    """Of the segment, from its start."""
    n_draft: int
    """Tokens that were forced or drafted."""
    is_promoted: bool = False
    """It began as a speculative pass and is the final one now."""
    recognised: Recognition | None = None
    """Its hypothesis, while the marks of that are found."""

    @property
    def is_final(self) -> bool:
        """Return True if its answer decides the segment's final."""
        return self.of.rank is Rank.FINAL

    def promote(self) -> None:
        """Make it the final pass: the segment has ended where it ends."""
        self.of, self.is_promoted = replace(self.of, rank=Rank.FINAL), True


@dataclass(slots=True)
class Pause:
    """A silence in the segment that may turn out to be its end."""

    n_samples: int
    """Of the segment, if it ends here."""
    prepared: Marked | None = None
    """The final text, if the segment ends here."""
    is_hopeless: bool = False
    """A pass for it failed; it is not tried again."""


@dataclass(slots=True)
class SegmentState:
    """State of one segment until its words are published."""

    number: int
    start: Samples
    options: SessionOptions
    stable: StablePrefix
    """Without marks, if `marks` are added."""
    marks: DecidedMarks | None = None
    """Marks of a model of its own that stay; None where the text needs none."""
    audio: GrowingSamples = field(default_factory=GrowingSamples)
    in_flight: PassInFlight | None = None
    n_asked: int = 0
    """Samples of the newest pass."""
    tokens: tuple[int, ...] = ()
    """Of the newest hypothesis, as the model gave it, whatever became of it."""
    n_recognised: int = 0
    """Samples behind those tokens."""
    hypothesis: Hypothesis | None = None
    """The newest one with text, as it was shown; it begins with the stable text."""
    n_heard: int = 0
    """Samples behind that hypothesis."""
    pause: Pause | None = None
    ended: SpeechEnded | None = None
    outcomes: tuple[Outcome, ...] | None = None
    """None until they are decided."""
    decided: Hypothesis | None = None
    """The hypothesis that became the final."""
    awaits_words: bool = False
    """Its final is published."""

    @property
    def is_awaited(self) -> bool:
        """Return True if its final is owed."""
        return self.ended is not None and self.outcomes is None

    @property
    def n_stable(self) -> int:
        """Return the code points of the shown text that stay."""
        return len(self.stable.text) if self.marks is None else self.marks.n_stable

    @property
    def draft(self) -> tuple[int, ...]:
        """Return the probable first tokens of the next hypothesis, the forced ones included."""
        forced = self.stable.forced
        return self.tokens if self.tokens[: len(forced)] == forced else ()

    def samples_until(self, end: Samples) -> Float32Array:
        """Return the samples from its start to a position."""
        return self.audio.first(end - self.start)

    def final(self, hypothesis: Hypothesis) -> Final:
        """Return the final that a hypothesis makes."""
        ended = self.ended
        assert ended is not None, "a final is owed from the end of the segment on"
        self.decided = hypothesis
        text, language = hypothesis.text, hypothesis.language
        return Final(self.number, text, language, ended.start, ended.end, ended.reason)

    def align(self, final: Final) -> Align:
        """Return the order for the times of its words."""
        samples = self.samples_until(final.end)
        order = Align(self.number, final.start, samples, final.text, final.language)
        decided = self.decided
        if decided is None or not len(decided.tokens) == len(decided.ends) == len(decided.times):
            return order
        return replace(order, ends=decided.ends, times=decided.times)
