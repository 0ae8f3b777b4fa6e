"""What is to be done with every segment, and when; pure.

```
            SpeechStarted          SpeechEnded           Recognised (final)     Aligned
  (nothing) -------------> open ----------------> ended ----------------> final -------> (nothing)
                           |  ^                     |                       |
    partial due: Recognise |  | SpeechResumed       Recognise the whole     Align
      Recognised: partial  v  |                     |                       ^
                           paused ------------------)---- the same end -----+
               Recognise up to the pause            Promote, if it is in flight
```

* A segment has one pass in flight at most. Answers to any other pass are old and are ignored.
* While a segment is open, a partial is due whenever enough new audio has come (see `cadence`), no
  other pass over it is on its way and no final is owed: only the newest waits, finals go first, and
  a slow machine shows fewer of them.
* When the speaker pauses, the final is prepared for the case that nothing more comes: a speculative
  pass over exactly what the segment would be takes the place of any partial. If the segment ends
  just there, that is its final, at once or as soon as it comes. If speech comes back it was a
  partial like others.
* What two hypotheses agree on behind the commit lag is promised to the listeners, and forced upon
  the decoder from then on: `stable` only grows.
* When a segment has ended and nothing is prepared, its exact audio is recognised once more for
  the final. A partial still on its way is abandoned.
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
from typing import assert_never

from streamasr.core.events import (
    Aligned,
    AudioLost,
    Configured,
    FinalRestored,
    PassAbandoned,
    PassFailed,
    Recognised,
    SegmentationEvent,
    SessionEvent,
    SpeechContinued,
    SpeechEnded,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    StreamEnded,
)
from streamasr.core.growable import Recording
from streamasr.core.hypothesis import Hypothesis, StableText
from streamasr.core.messages import Durable, End, Final, Gap, Partial, Speech, Words
from streamasr.core.options import SessionOptions
from streamasr.core.orders import (
    AbandonPass,
    Action,
    Align,
    Pass,
    Promote,
    Publish,
    Rank,
    Recognise,
    Release,
)
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples
from streamasr.session.cadence import Cadence, Work
from streamasr.session.segment import Outcome, PassInFlight, Pause, Segment
from streamasr.session.stable_prefix import CommitLag, StablePrefix

_SAME_START: Constant = SAMPLE_RATE
"""Two segments of one number that start less than this apart, before and after a restart, are the
same speech; otherwise the first one became a gap, which has no number."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How the daemon's operator wants sessions to be."""

    partial_interval: Samples = Samples(SAMPLE_RATE // 2)  # noqa: RUF009 - an int
    """New audio between two partials."""
    partial_load: float | None = 0.5
    """Share of the time that partials of this session may keep the machine busy with what the final
    does not need; None for no limit, which makes the same audio show the same partials on any
    machine."""
    commit: CommitLag | None = field(default_factory=CommitLag)
    """When a part of a partial becomes stable; None: not before the final."""
    speculates: bool = True
    """Whether finals are prepared in the speaker's pauses. Costs a pass for each that is no end."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a session had published before a restart."""

    seq: int = 0
    """Number of the last message that is kept."""
    segments: int = 0
    words: int = 0
    stable: StableText | None = None
    """Of the segment that was open."""


@dataclass(frozen=True, slots=True)
class _Loss:
    """Audio that never came, in its place between the segments."""

    outcomes: tuple[Outcome, ...]


class Session:
    """One stream of speech from its first sample to its last word."""

    def __init__(
        self,
        settings: SessionSettings,
        options: SessionOptions = SessionOptions(),  # noqa: B008 - frozen
        published: Published = Published(),
    ) -> None:
        """Begin a session, or go on with one after a restart."""
        self._settings = settings
        self._options = options
        self._seq = published.seq
        self._n_finals = published.segments
        self._n_words = published.words
        self._restored = published.stable
        self._segments: dict[int, Segment] = {}  # in the order of their start
        self._unpublished: deque[Segment | _Loss] = deque()  # in the order of time
        self._cadence = Cadence(settings.partial_interval, settings.partial_load)
        self._n_passes = 0
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
        ends = (s.ended for s in self._segments.values() if s.outcomes is None)
        return sum(ended.end - ended.start for ended in ends if ended)

    @property
    def awaited_since(self) -> Samples | None:
        """Where the first segment ended whose final is still owed."""
        ends = (s.ended for s in self._segments.values() if s.outcomes is None)
        return next((ended.end for ended in ends if ended), None)

    @property
    def n_awaiting_words(self) -> int:
        """Finals that are out and whose words are owed."""
        return sum(segment.awaits_words for segment in self._segments.values())

    @property
    def has_partial_in_flight(self) -> bool:
        """Whether a partial, or what may become one, is on its way."""
        flights = (segment.flight for segment in self._segments.values())
        return any(flight is not None and not flight.is_final for flight in flights)

    def stable_text(self, number: int) -> StableText | None:
        """Return the stable text of an open segment; None while nothing is stable."""
        segment = self._segments.get(number)
        if segment is None or not segment.stable.text:
            return None
        return StableText(number, segment.start, segment.stable.text, segment.stable.forced)

    def receive(self, event: SessionEvent) -> list[Action]:
        """Take note of an event; what is to be done because of it, in order."""
        match event:
            case StreamEnded(duration=duration):
                self._duration = duration
                return self._end_stream_if_settled()
            case Configured(options=options):
                self._options = options
                return []
            case FinalRestored(final=final, samples=samples):
                return self._restore(final, samples)
            case Aligned():
                return self._words(event)
            case Recognised() | PassFailed() | PassAbandoned():
                return self._follow_pass(event)
            case _:
                return self._follow_speech(event)

    def _follow_speech(self, event: SegmentationEvent) -> list[Action]:
        match event:
            case SpeechStarted(segment=number, start=start):
                stable = self._begin_stable(number, start)
                segment = Segment(number, start, self._options, stable)
                self._segments[number] = segment
                self._unpublished.append(segment)
                return [Publish(Speech(number, start))]
            case SpeechContinued(segment=number, samples=samples):
                segment = self._segments[number]
                segment.recording.append(samples)
                return self._begin_what_is_due(segment)
            case SpeechPaused():
                return self._pause(event)
            case SpeechResumed(segment=number):
                return self._resume(self._segments[number])
            case SpeechEnded():
                return self._end_segment(event)
            case AudioLost(start=start, end=end, reason=reason):
                self._unpublished.append(_Loss((Gap(start, end, reason),)))
                return self._publish_outcomes()
            case _:
                assert_never(event)

    def _follow_pass(self, event: Recognised | PassFailed | PassAbandoned) -> list[Action]:
        segment = self._segments.get(event.of.segment)
        if segment is None or segment.flight is None or segment.flight.of != event.of:
            return []
        flight, segment.flight = segment.flight, None
        match event:
            case Recognised():
                self._note_work(segment, flight, event)
                if flight.is_final:
                    return self._final(segment, event.hypothesis)
                return self._hypothesis(segment, flight, event.hypothesis)
            case PassFailed(message=message):
                return self._lose(segment, flight, message)
            case PassAbandoned():
                return self._begin_again(segment, flight)
            case _:
                assert_never(event)

    def _begin_stable(self, number: int, start: Samples) -> StablePrefix:
        """Nothing is promised yet, unless this segment was open before a restart."""
        old, commit = self._restored, self._settings.commit
        is_same = old and old.segment == number and abs(start - old.start) < _SAME_START
        return (
            StablePrefix(commit, old.text, old.forced) if old and is_same else StablePrefix(commit)
        )

    # Passes

    def _begin_what_is_due(self, segment: Segment) -> list[Action]:
        if segment.flight is not None or self._owes_a_final():
            return []
        if (pause := segment.pause) is not None:
            is_wanted = pause.prepared is None and not pause.is_hopeless
            return [self._begin(segment, Rank.SPECULATIVE, pause.n_samples)] if is_wanted else []
        n_samples = len(segment.recording)
        interval = self._cadence.interval(len(segment.draft))
        if not segment.options.partials or n_samples - segment.n_asked < interval:
            return []
        return [self._begin(segment, Rank.PARTIAL, n_samples)]

    def _owes_a_final(self) -> bool:
        return any(segment.is_awaited for segment in self._segments.values())

    def _begin(self, segment: Segment, rank: Rank, n_samples: int) -> Recognise:
        self._n_passes += 1
        of = Pass(segment.number, self._n_passes, rank)
        forced, draft = segment.stable.forced, segment.draft
        segment.flight = PassInFlight(of, n_samples, n_draft=max(len(forced), len(draft)))
        segment.n_asked = n_samples
        samples = segment.recording.first(n_samples)
        return Recognise(of, samples, segment.options, forced, draft)

    def _abandon(self, segment: Segment) -> list[Action]:
        """Let go of the pass that is on its way, if there is one."""
        flight, segment.flight = segment.flight, None
        return [] if flight is None else [AbandonPass(flight.of)]

    def _note_work(self, segment: Segment, flight: PassInFlight, event: Recognised) -> None:
        n_new = flight.n_samples - segment.n_decoded
        work = Work.of(event.costs, event.waited, flight.n_draft, n_new)
        if flight.is_final and not flight.is_promoted:
            self._cadence.note_final(work)
        else:
            self._cadence.note(work)

    def _hypothesis(
        self, segment: Segment, flight: PassInFlight, hypothesis: Hypothesis
    ) -> list[Action]:
        """Make of a hypothesis of an open segment what can be made of it."""
        segment.tokens, segment.n_decoded = hypothesis.tokens, flight.n_samples
        keeps_promise = hypothesis.text.startswith(segment.stable.text)
        if (pause := segment.pause) is not None:
            pause.prepared = hypothesis if keeps_promise else None
            pause.is_hopeless = not keeps_promise
        if not hypothesis.text or not keeps_promise:
            return []
        segment.hypothesis, segment.n_heard = hypothesis, flight.n_samples
        return self._partial(segment, hypothesis) if segment.options.partials else []

    def _partial(self, segment: Segment, hypothesis: Hypothesis) -> list[Action]:
        segment.stable.receive(hypothesis, Samples(segment.n_heard))
        n_stable, end = len(segment.stable.text), Samples(segment.start + segment.n_heard)
        text, language = hypothesis.text, hypothesis.language
        return [Publish(Partial(segment.number, text, n_stable, language, segment.start, end))]

    def _lose(self, segment: Segment, flight: PassInFlight, reason: str) -> list[Action]:
        if flight.is_final:
            return self._fail(segment, reason)
        if segment.pause is not None:
            segment.pause.is_hopeless = True
        return []

    def _begin_again(self, segment: Segment, flight: PassInFlight) -> list[Action]:
        """Get over a pass that made way for others."""
        if flight.is_promoted:  # it had already been stopped when it became the final
            return [self._begin(segment, Rank.FINAL, flight.n_samples)]
        return self._fail(segment, "it was stopped") if flight.is_final else []

    # Pauses and ends

    def _pause(self, event: SpeechPaused) -> list[Action]:
        if not self._settings.speculates:
            return []
        segment = self._segments[event.segment]
        segment.pause = Pause(event.end - segment.start)
        return [*self._abandon(segment), *self._begin_what_is_due(segment)]

    def _resume(self, segment: Segment) -> list[Action]:
        """What is on its way serves as a partial, where one is wished for."""
        segment.pause = None
        return [] if segment.options.partials else self._abandon(segment)

    def _end_segment(self, event: SpeechEnded) -> list[Action]:
        segment = self._segments[event.segment]
        pause, flight, n_samples = segment.pause, segment.flight, event.end - event.start
        segment.ended = event
        if pause is not None and pause.prepared is not None and pause.n_samples == n_samples:
            return self._final(segment, pause.prepared)
        is_speculative = flight is not None and flight.of.rank is Rank.SPECULATIVE
        if flight is not None and is_speculative and flight.n_samples == n_samples:
            flight.promote()
            return [Promote(flight.of)]
        return [*self._abandon(segment), self._begin(segment, Rank.FINAL, n_samples)]

    def _final(self, segment: Segment, hypothesis: Hypothesis) -> list[Action]:
        if not hypothesis.text.startswith(segment.stable.text):
            return self._fail(segment, "its final text contradicts what had been promised")
        return self._decide(segment, segment.final(hypothesis))

    def _fail(self, segment: Segment, reason: str) -> list[Action]:
        """Make the best of a segment whose final pass failed: nothing recognised is lost."""
        ended, known = segment.ended, segment.hypothesis
        assert ended is not None, "a final pass begins when its segment has ended"
        if known is None:
            return self._decide(segment, Gap(ended.start, ended.end, reason))
        heard_until = Samples(min(segment.start + segment.n_heard, ended.end))
        final = replace(segment.final(known), end=heard_until)
        if heard_until == ended.end:
            return self._decide(segment, final)
        return self._decide(segment, final, Gap(heard_until, ended.end, reason))

    # Outcomes

    def _decide(self, segment: Segment, *outcomes: Outcome) -> list[Action]:
        segment.outcomes = outcomes
        return [Release(segment.number), *self._publish_outcomes()]

    def _publish_outcomes(self) -> list[Action]:
        """Publish all outcomes that nothing earlier holds up."""
        actions: list[Action] = []
        while self._unpublished and self._unpublished[0].outcomes is not None:
            entry = self._unpublished.popleft()
            for outcome in entry.outcomes or ():
                actions.append(self._number(outcome))
                if isinstance(outcome, Final) and isinstance(entry, Segment):
                    actions += self._align(outcome, entry)
            if isinstance(entry, Segment) and not entry.awaits_words:
                del self._segments[entry.number]
        return actions + self._end_stream_if_settled()

    def _align(self, final: Final, segment: Segment) -> list[Action]:
        self._n_finals += 1
        if not final.text or not segment.options.words:
            return []
        segment.awaits_words = True
        samples = segment.samples_until(final.end)
        return [Align(final.segment, final.start, samples, final.text, final.language)]

    def _restore(self, final: Final, samples: Float32Array) -> list[Action]:
        number, start, end = final.segment, final.start, final.end
        segment = Segment(number, start, self._options, StablePrefix(None), Recording(samples))
        segment.ended = SpeechEnded(number, start, end, final.reason)
        segment.outcomes, segment.awaits_words = (final,), True
        self._segments[number] = segment
        return [Align(number, start, samples, final.text, final.language)]

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
