"""What is to be done with every segment, and when; pure.

```
            SpeechStarted          SpeechEnded            Decoded (final)       Aligned
  (nothing) -------------> open ----------------> ended ----------------> final -------> (nothing)
                            |  ^                    |                       |
          partial due: Encode  Encoded: Decode      Encode the whole        Align
                               Decoded: partial
```

* While a segment is open, a partial is due whenever `partial_interval` of new audio has come, no
  other partial is on its way and no final is owed: only the newest waits, finals go first, and a
  slow machine, for which the interval is stretched by the measured cost, shows fewer of them.
* What two hypotheses agree on behind the commit lag is promised to the listeners, and forced upon
  the decoder from then on: `stable` only grows.
* When a segment has ended, its exact audio is encoded and decoded once more for the final. A
  partial still on its way is abandoned.
* Finals and gaps are published in the order of time, whatever order the answers come in. A final
  that had text is aligned; its words follow when they are ready.
* A pass that failed costs its own segment only: a partial is dropped; in place of a final stand the
  last hypothesis, for the audio that it had heard, and a gap for the rest.
* Messages that last are numbered without holes. The last of them is `End`, once the stream is over
  and nothing is owed.

The session keeps the samples of a segment until its final is out and its words are known. It has no
clock, queue, process or socket: time is the audio's.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final as Constant
from typing import TypeAlias, assert_never

import numpy as np

from streamasr.events import (
    AbandonPass,
    Action,
    Align,
    Aligned,
    AudioLost,
    Configured,
    Decode,
    Decoded,
    Durable,
    Encode,
    Encoded,
    End,
    Final,
    FinalRestored,
    Gap,
    Hypothesis,
    Partial,
    Pass,
    PassAbandoned,
    PassFailed,
    Promise,
    Publish,
    SegmentationEvent,
    SessionEvent,
    Speech,
    SpeechContinued,
    SpeechEnded,
    SpeechStarted,
    StreamEnded,
    Wishes,
    Words,
)
from streamasr.session.hypothesis import CommitLag, StablePrefix
from streamasr.units import SAMPLE_RATE, Float32Array, Samples, to_samples

_NEWEST_COST: Constant = 0.5
"""Weight of the newest partial in the running average of what one costs."""

_SAME_START: Constant = SAMPLE_RATE
"""Two segments of one number that start less than this apart, before and after a restart, are the
same speech; otherwise the first one became a gap, which has no number."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How the daemon's operator wants sessions to be."""

    partial_interval: Samples = Samples(SAMPLE_RATE // 2)  # noqa: RUF009 - an int
    """New audio between two partials."""
    partial_load: float | None = 0.5
    """Share of the time that partials of this session may keep the machine busy; None for no limit,
    which makes the same audio show the same partials on any machine."""
    commit: CommitLag | None = field(default_factory=CommitLag)
    """When a part of a partial becomes stable; None: not before the final."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a session had published before a restart."""

    seq: int = 0
    """Number of the last message that is kept."""
    segments: int = 0
    words: int = 0
    promise: Promise | None = None
    """Of the segment that was open."""


Outcome: TypeAlias = Final | Gap


@dataclass(slots=True)
class _Segment:
    """A segment whose final or words are still owed."""

    number: int
    start: Samples
    wishes: Wishes
    stable: StablePrefix
    chunks: list[Float32Array] = field(default_factory=list)
    n_samples: int = 0
    n_encoded: int = 0  # of the last partial that was asked for
    partial_in_flight: bool = False
    hypothesis: Hypothesis | None = None  # the newest
    n_heard: int = 0  # samples behind that hypothesis
    ended: SpeechEnded | None = None
    outcomes: tuple[Outcome, ...] | None = None  # once they are known
    awaits_words: bool = False  # its final is out

    def append(self, samples: Float32Array) -> None:
        self.chunks.append(samples)
        self.n_samples += len(samples)

    def samples(self) -> Float32Array:
        """All samples so far, or exactly the segment once it has ended."""
        joined = np.concatenate(self.chunks) if self.chunks else np.empty(0, dtype=np.float32)
        return joined if self.ended is None else joined[: self.ended.end - self.start]


@dataclass(frozen=True, slots=True)
class _Loss:
    """Audio that never came, in its place between the segments."""

    outcomes: tuple[Outcome, ...]


class Session:
    """One stream of speech from its first sample to its last word."""

    def __init__(
        self,
        settings: SessionSettings,
        wishes: Wishes = Wishes(),  # noqa: B008 - frozen
        published: Published = Published(),
    ) -> None:
        """Begin a session, or go on with one after a restart."""
        self._settings = settings
        self._wishes = wishes
        self._seq = published.seq
        self._n_finals = published.segments
        self._n_words = published.words
        self._promise = published.promise
        self._segments: dict[int, _Segment] = {}  # in the order of their start
        self._unpublished: deque[_Segment | _Loss] = deque()  # in the order of time
        self._partial_cost = 0.0  # seconds, a running average
        self._cost_so_far = 0.0  # of the partial in flight
        self._duration: Samples | None = None  # once the stream is over

    @property
    def seq(self) -> int:
        """Number of the last message that is kept."""
        return self._seq

    @property
    def is_settled(self) -> bool:
        """Whether nothing is owed for the audio received so far."""
        return not self._segments

    @property
    def owed_from(self) -> Samples | None:
        """Where the first segment starts whose final or words are still owed."""
        return next((segment.start for segment in self._segments.values()), None)

    @property
    def n_unfinished(self) -> int:
        """Segments that have ended and whose final or words are still owed."""
        return sum(segment.ended is not None for segment in self._segments.values())

    @property
    def n_waiting_samples(self) -> int:
        """Length of the segments that have ended and whose final is still owed."""
        waiting = (s for s in self._segments.values() if s.outcomes is None)
        return sum(s.ended.end - s.ended.start for s in waiting if s.ended)

    @property
    def undecoded_from(self) -> Samples | None:
        """Where the first segment starts whose final is still owed."""
        waiting = (s.start for s in self._segments.values() if s.outcomes is None)
        return next(waiting, None)

    @property
    def has_partial_in_flight(self) -> bool:
        """Whether a partial was asked for and has not come."""
        return any(segment.partial_in_flight for segment in self._segments.values())

    def promise(self, number: int) -> Promise | None:
        """What the listeners of an open segment rely on; None while nothing is stable."""
        segment = self._segments.get(number)
        if segment is None or not segment.stable.text:
            return None
        return Promise(number, segment.start, segment.stable.text, segment.stable.forced)

    def receive(self, event: SessionEvent) -> list[Action]:  # noqa: C901 - one case for each event
        """Take note of an event; what is to be done because of it, in order."""
        match event:
            case SpeechStarted() | SpeechContinued() | SpeechEnded() | AudioLost():
                return self._follow_speech(event)
            case StreamEnded(duration=duration):
                self._duration = duration
                return self._end_stream_if_settled()
            case Configured(wishes=wishes):
                self._wishes = wishes
                return []
            case FinalRestored(final=final, samples=samples):
                return self._restore(final, samples)
            case Aligned():
                return self._words(event)
            case Encoded() | Decoded() if not self._is_awaited(event.of):
                return self._drop_partial(event.of)
            case Encoded(of=of, embeddings=embeddings, cost=cost):
                self._cost_so_far = self._cost_so_far if of.is_final else cost
                return [self._decode(of, embeddings)]
            case Decoded(of=of, hypothesis=hypothesis, cost=cost):
                if of.is_final:
                    return self._final(of.segment, hypothesis)
                return self._partial(of.segment, hypothesis, cost)
            case PassFailed() | PassAbandoned():
                return self._lose(event)
            case _:
                assert_never(event)

    def _follow_speech(self, event: SegmentationEvent) -> list[Action]:
        match event:
            case SpeechStarted(segment=number, start=start):
                stable = self._begin_stable(number, start)
                segment = _Segment(number, start, self._wishes, stable)
                self._segments[number] = segment
                self._unpublished.append(segment)
                return [Publish(Speech(number, start))]
            case SpeechContinued(segment=number, samples=samples):
                self._segments[number].append(samples)
                return self._partial_if_due(number)
            case SpeechEnded():
                return self._end_segment(event)
            case AudioLost(start=start, end=end, reason=reason):
                self._unpublished.append(_Loss((Gap(start, end, reason),)))
                return self._publish_outcomes()
            case _:
                assert_never(event)

    def _begin_stable(self, number: int, start: Samples) -> StablePrefix:
        """Nothing is promised yet, unless this segment was open before a restart."""
        old, commit = self._promise, self._settings.commit
        is_same = old and old.segment == number and abs(start - old.start) < _SAME_START
        return (
            StablePrefix(commit, old.text, old.forced) if old and is_same else StablePrefix(commit)
        )

    def _lose(self, event: PassFailed | PassAbandoned) -> list[Action]:
        if not event.of.is_final:
            return self._drop_partial(event.of)
        reason = event.message if isinstance(event, PassFailed) else "it was stopped"
        return self._fail(event.of.segment, reason)

    def _is_awaited(self, of: Pass) -> bool:
        segment = self._segments.get(of.segment)
        if segment is None or segment.outcomes is not None:
            return False
        return of.is_final or segment.ended is None

    def _partial_if_due(self, number: int) -> list[Action]:
        segment = self._segments[number]
        if not segment.wishes.partials or segment.partial_in_flight:
            return []
        if segment.n_samples - segment.n_encoded < self._partial_interval():
            return []
        if self._owes_a_final():
            return []
        segment.partial_in_flight = True
        segment.n_encoded = segment.n_samples
        return [Encode(Pass(number, is_final=False), segment.samples())]

    def _partial_interval(self) -> Samples:
        load = self._settings.partial_load
        stretched = 0.0 if load is None else self._partial_cost / load
        return max(self._settings.partial_interval, to_samples(stretched))

    def _owes_a_final(self) -> bool:
        return any(s.ended and s.outcomes is None for s in self._segments.values())

    def _decode(self, of: Pass, embeddings: Float32Array) -> Decode:
        segment = self._segments[of.segment]
        wishes = segment.wishes
        return Decode(of, embeddings, wishes.language, wishes.context, segment.stable.forced)

    def _partial(self, number: int, hypothesis: Hypothesis, cost: float) -> list[Action]:
        self._note_cost(self._cost_so_far + cost)
        segment = self._segments[number]
        segment.partial_in_flight = False
        if not hypothesis.text or not hypothesis.text.startswith(segment.stable.text):
            return []
        segment.hypothesis, segment.n_heard = hypothesis, segment.n_encoded
        segment.stable.receive(hypothesis, Samples(segment.n_encoded))
        text, language = hypothesis.text, hypothesis.language
        end = Samples(segment.start + segment.n_encoded)
        n_stable = len(segment.stable.text)
        return [Publish(Partial(number, text, n_stable, language, segment.start, end))]

    def _note_cost(self, seconds: float) -> None:
        weight = _NEWEST_COST if self._partial_cost else 1.0
        self._partial_cost += weight * (seconds - self._partial_cost)

    def _drop_partial(self, of: Pass) -> list[Action]:
        segment = self._segments.get(of.segment)
        if segment and not of.is_final:
            segment.partial_in_flight = False
        return []

    def _end_segment(self, event: SpeechEnded) -> list[Action]:
        segment = self._segments[event.segment]
        segment.ended = event
        actions: list[Action] = []
        if segment.partial_in_flight:
            actions.append(AbandonPass(Pass(event.segment, is_final=False)))
        actions.append(Encode(Pass(event.segment, is_final=True), segment.samples()))
        return actions

    def _final(self, number: int, hypothesis: Hypothesis) -> list[Action]:
        segment = self._segments[number]
        if not hypothesis.text.startswith(segment.stable.text):
            return self._fail(number, "its final text contradicts what had been promised")
        segment.outcomes = (_final(segment, hypothesis),)
        return self._publish_outcomes()

    def _fail(self, number: int, reason: str) -> list[Action]:
        """Make the best of a segment whose final pass failed: nothing recognised is lost."""
        segment = self._segments.get(number)
        if segment is None or segment.outcomes is not None:
            return []
        ended = segment.ended
        assert ended is not None, "a final pass begins when its segment has ended"
        known = segment.hypothesis
        if known is None:
            segment.outcomes = (Gap(ended.start, ended.end, reason),)
            return self._publish_outcomes()
        heard_until = Samples(min(segment.start + segment.n_heard, ended.end))
        final = replace(_final(segment, known), end=heard_until)
        rest = Gap(heard_until, ended.end, reason)
        segment.outcomes = (final, rest) if heard_until < ended.end else (final,)
        return self._publish_outcomes()

    def _publish_outcomes(self) -> list[Action]:
        """Publish all outcomes that nothing earlier holds up."""
        actions: list[Action] = []
        while self._unpublished and self._unpublished[0].outcomes is not None:
            entry = self._unpublished.popleft()
            for outcome in entry.outcomes or ():
                actions.append(self._number(outcome))
                if isinstance(outcome, Final) and isinstance(entry, _Segment):
                    actions += self._align(outcome, entry)
            if isinstance(entry, _Segment) and not entry.awaits_words:
                del self._segments[entry.number]
        return actions + self._end_stream_if_settled()

    def _align(self, final: Final, segment: _Segment) -> list[Action]:
        self._n_finals += 1
        if not final.text or not segment.wishes.words:
            return []
        segment.awaits_words = True
        samples = segment.samples()[: final.end - final.start]
        return [Align(final.segment, final.start, samples, final.text, final.language)]

    def _restore(self, final: Final, samples: Float32Array) -> list[Action]:
        ended = SpeechEnded(final.segment, final.start, final.end, final.reason)
        segment = _Segment(
            final.segment, final.start, self._wishes, StablePrefix(None), ended=ended
        )
        segment.append(samples)
        segment.outcomes, segment.awaits_words = (final,), True
        self._segments[final.segment] = segment
        return [Align(final.segment, final.start, samples, final.text, final.language)]

    def _words(self, event: Aligned) -> list[Action]:
        segment = self._segments.get(event.segment)
        if segment is None or not segment.awaits_words:
            return []
        del self._segments[event.segment]
        self._n_words += len(event.words)
        words = Words(event.segment, event.words, event.method)
        return [self._number(words), *self._end_stream_if_settled()]

    def _end_stream_if_settled(self) -> list[Action]:
        if self._duration is None or self._segments or self._unpublished:
            return []
        end = End(self._duration, self._n_finals, self._n_words)
        self._duration = None  # so that it is said once
        return [self._number(end)]

    def _number(self, message: Durable) -> Publish:
        self._seq += 1
        return Publish(message, self._seq)


def _final(segment: _Segment, hypothesis: Hypothesis) -> Final:
    ended = segment.ended
    assert ended is not None, "a final pass begins when its segment has ended"
    text, language = hypothesis.text, hypothesis.language
    return Final(segment.number, text, language, ended.start, ended.end, ended.reason)
