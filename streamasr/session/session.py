"""State machine of a session: orders and messages for every segment; pure.

```
            SpeechStarted          SpeechEnded           Recognised (final)     Aligned
  (nothing) -------------> open ----------------> ended ----------------> final -------> (nothing)
                           |  ^                     |                       |
    partial due: Recognise |  | SpeechResumed       Recognise the whole     Align
      Recognised: Partial  v  |                     |                       ^
                           paused ------------------)-- same end: prepared -+
               Recognise up to the pause            Promote, if it is in flight
```

* A segment has one pass in flight at most. Answers to any other pass are old and are ignored.
* While a segment is open, a partial is due when enough new audio has come (see `cadence`), no other
  pass over the segment is in flight and no final is owed. So only the newest audio waits, finals go
  first, and a slow machine shows fewer partials.
* When the speaker pauses, the final is prepared: a speculative pass over exactly the samples that
  the segment would have takes the place of any partial. If the segment ends there, its hypothesis
  is the final, at once or as soon as it comes. If speech resumes, it counts as a partial.
* Text on which successive hypotheses agree behind the commit lag becomes stable. Every later
  hypothesis begins with it (see `stable_prefix`); stable text only grows.
* When a segment has ended and nothing is prepared, its exact samples are recognised once more for
  the final. A partial that is still in flight is abandoned.
* Finals and gaps are published in the order of time, in whatever order the answers come. The words
  of a final follow when their times are known.
* A final that a restart left without words is aligned; if its family times the tokens itself, the
  segment is recognised once more for them.
* A failed pass affects its own segment only. A partial is dropped. In place of a final, the last
  hypothesis is published for the audio behind it, and a gap for the rest.
* Durable messages are numbered without holes. The last of them is `End`, when the stream is over
  and nothing is owed.

The session keeps the samples of a segment until its final is published and its words are known. It
has no clock, queue, process or socket: the only time is that of the audio.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final as Constant
from typing import Self, assert_never

from streamasr.core.events import (
    Aligned,
    AudioLost,
    Configured,
    FinalRestored,
    PassAbandoned,
    PassFailed,
    Punctuated,
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
from streamasr.core.growable import GrowingSamples
from streamasr.core.hypothesis import Hypothesis, StableText
from streamasr.core.messages import Durable, End, Final, Gap, Partial, Speech, Words
from streamasr.core.options import SessionOptions
from streamasr.core.orders import (
    AbandonPass,
    Action,
    Pass,
    Promote,
    Publish,
    Punctuate,
    Rank,
    Recognise,
    Release,
)
from streamasr.core.punctuation import Marks
from streamasr.core.traits import FamilyTraits
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples
from streamasr.session.cadence import Cadence, Work
from streamasr.session.joining import Continuation, TimedText
from streamasr.session.punctuation import DecidedMarks, Marked, as_published, shown_text
from streamasr.session.segment import Outcome, PassInFlight, Pause, Recognition, SegmentState
from streamasr.session.stable_prefix import CommitLag, StablePrefix

_SAME_START: Constant = SAMPLE_RATE
"""Two segments of one number that start less than this apart, before and after a restart, are the
same speech. Otherwise the first one became a gap, which has no number."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Settings of all sessions, by the operator."""

    partial_interval: Samples = Samples(SAMPLE_RATE // 2)  # noqa: RUF009 - an int
    """New audio between two partials."""
    partial_load: float | None = 0.5
    """Share of the time that partials of this session may keep the machine busy with work that the
    final does not need; None for no limit, so that the same audio shows the same partials on any
    machine."""
    commit: CommitLag | None = field(default_factory=CommitLag)
    """When a part of a partial becomes stable; None: not before the final."""
    speculates: bool = True
    """Prepare finals in the speaker's pauses. Costs one pass for each pause that is not an end."""


@dataclass(frozen=True, slots=True)
class Published:
    """State of a session before a restart, by its durable messages."""

    seq: int = 0
    """Number of the last durable message."""
    segments: int = 0
    words: int = 0
    stable: StableText | None = None
    """Of the segment that was open."""

    def for_another_model(self) -> Self:
        """Return the state for a model with other tokens: only the shown text counts."""
        if self.stable is None:
            return self
        return replace(self, stable=_shown_only(self.stable))


@dataclass(frozen=True, slots=True)
class _Loss:
    """Lost audio, in its place between the segments."""

    outcomes: tuple[Outcome, ...]


class Session:
    """State of one stream of speech, from its first sample to its last word."""

    def __init__(
        self,
        settings: SessionSettings,
        options: SessionOptions = SessionOptions(),  # noqa: B008 - frozen
        published: Published = Published(),
        traits: FamilyTraits = FamilyTraits(),  # noqa: B008 - frozen
    ) -> None:
        """Begin a session, or continue one after a restart.

        Args:
            settings: by the operator.
            options: by the client, until `Configured` changes them.
            published: before a restart.
            traits: of the model family that recognises.
        """
        self._settings = settings
        self._options = options
        self._traits = traits
        self._seq = published.seq
        self._n_finals = published.segments
        self._n_words = published.words
        self._restored = published.stable
        self._segments: dict[int, SegmentState] = {}  # in the order of their start
        self._unpublished: deque[SegmentState | _Loss] = deque()  # in the order of time
        self._cadence = Cadence(settings.partial_interval, settings.partial_load)
        self._n_passes = 0
        self._duration: Samples | None = None  # once the stream is over

    @property
    def seq(self) -> int:
        """Return the number of the last durable message."""
        return self._seq

    @property
    def is_settled(self) -> bool:
        """Return True if nothing is owed for the audio received so far."""
        return not self._segments

    @property
    def owed_from(self) -> Samples | None:
        """Return the start of the first segment whose final or words are owed."""
        return next((segment.start for segment in self._segments.values()), None)

    @property
    def n_unfinished(self) -> int:
        """Return the number of ended segments whose final or words are owed."""
        return sum(segment.ended is not None for segment in self._segments.values())

    @property
    def n_waiting_samples(self) -> int:
        """Return the length of the ended segments whose final is owed."""
        ends = (s.ended for s in self._segments.values() if s.outcomes is None)
        return sum(ended.end - ended.start for ended in ends if ended)

    @property
    def awaited_since(self) -> Samples | None:
        """Return the end of the first ended segment whose final is owed."""
        ends = (s.ended for s in self._segments.values() if s.outcomes is None)
        return next((ended.end for ended in ends if ended), None)

    @property
    def n_awaiting_words(self) -> int:
        """Return the number of published finals whose words are owed."""
        return sum(segment.awaits_words for segment in self._segments.values())

    @property
    def has_partial_in_flight(self) -> bool:
        """Return True if a pass is in flight whose answer may become a partial."""
        in_flight = (segment.in_flight for segment in self._segments.values())
        return any(one is not None and not one.is_final for one in in_flight)

    def stable_text(self, number: int) -> StableText | None:
        """Return the stable text of an open segment; None while nothing is stable."""
        segment = self._segments.get(number)
        if segment is None or not segment.stable.text:
            return None
        stable = segment.stable.stable
        text = StableText(
            number, segment.start, stable.text, stable.tokens, stable.ends, stable.times
        )
        if (decided := segment.marks) is None:
            return text
        return replace(text, marks=decided.marks, n_decided=decided.n_decided)

    def receive(self, event: SessionEvent) -> list[Action]:
        """Take an event; return the actions that follow from it, in order."""
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
            case Recognised() | Punctuated() | PassFailed() | PassAbandoned():
                return self._follow_pass(event)
            case _:
                return self._follow_speech(event)

    def _follow_speech(self, event: SegmentationEvent) -> list[Action]:
        match event:
            case SpeechStarted(segment=number, start=start):
                segment = SegmentState(
                    number, start, self._options, *self._begin_text(number, start)
                )
                self._segments[number] = segment
                self._unpublished.append(segment)
                return [Publish(Speech(number, start))]
            case SpeechContinued(segment=number, samples=samples):
                segment = self._segments[number]
                segment.audio.append(samples)
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

    def _follow_pass(
        self, event: Recognised | Punctuated | PassFailed | PassAbandoned
    ) -> list[Action]:
        segment = self._segments.get(event.of.segment)
        if segment is None or segment.in_flight is None or segment.in_flight.of != event.of:
            return []
        answered, segment.in_flight = segment.in_flight, None
        if segment.outcomes is not None:
            return self._time_restored(segment, event)
        match event:
            case Recognised():
                return self._recognised(segment, answered, event)
            case Punctuated():
                return self._punctuated(segment, answered, event)
            case PassFailed(message=message):
                return self._lose(segment, answered, message)
            case PassAbandoned():
                return self._begin_again(segment, answered)
            case _:
                assert_never(event)

    def _begin_text(self, number: int, start: Samples) -> tuple[StablePrefix, DecidedMarks | None]:
        """Begin with no stable text, unless this segment was open before a restart.

        A segment that was shown without marks of ours stays so, and one with them keeps those.
        """
        old, commit = self._restored, self._settings.commit
        has_marks = self._options.punctuation and self._traits.asks_for_marks
        if old is None or old.segment != number or abs(start - old.start) >= _SAME_START:
            return StablePrefix(commit, self._traits), DecidedMarks() if has_marks else None
        marks = None
        if old.n_decided is not None:
            marks = DecidedMarks(old.n_decided, old.marks) if has_marks else None
            old = old if has_marks else _shown_only(old)
        shift = old.start - start
        times = tuple((Samples(a + shift), Samples(b + shift)) for a, b in old.times)
        text = TimedText(old.text, old.tokens, old.ends, times)
        return StablePrefix(commit, self._traits, text), marks

    # Passes

    def _begin_what_is_due(self, segment: SegmentState) -> list[Action]:
        if segment.in_flight is not None or self._owes_a_final():
            return []
        if (pause := segment.pause) is not None:
            is_wanted = pause.prepared is None and not pause.is_hopeless
            return [self._begin(segment, Rank.SPECULATIVE, pause.n_samples)] if is_wanted else []
        n_samples = len(segment.audio)
        interval = self._cadence.interval(len(segment.draft))
        if not segment.options.partials or n_samples - segment.n_asked < interval:
            return []
        return [self._begin(segment, Rank.PARTIAL, n_samples)]

    def _owes_a_final(self) -> bool:
        return any(segment.is_awaited for segment in self._segments.values())

    def _begin(self, segment: SegmentState, rank: Rank, n_samples: int) -> Recognise:
        self._n_passes += 1
        of = Pass(segment.number, self._n_passes, rank)
        forced, draft = segment.stable.forced, segment.draft
        segment.in_flight = PassInFlight(of, n_samples, n_draft=max(len(forced), len(draft)))
        segment.n_asked = n_samples
        samples = segment.audio.first(n_samples)
        return Recognise(of, samples, segment.options, forced, draft)

    def _abandon(self, segment: SegmentState) -> list[Action]:
        """Give up the pass in flight, if there is one."""
        given_up, segment.in_flight = segment.in_flight, None
        return [] if given_up is None else [AbandonPass(given_up.of)]

    def _note_work(self, answered: PassInFlight, work: Work) -> None:
        if answered.is_final and not answered.is_promoted:
            self._cadence.note_final(work)
        else:
            self._cadence.note(work)

    def _recognised(
        self, segment: SegmentState, answered: PassInFlight, event: Recognised
    ) -> list[Action]:
        """Take the hypothesis of a pass, and order its marks if it needs any."""
        hypothesis, n_new = event.hypothesis, answered.n_samples - segment.n_recognised
        work = Work.of(event.costs, event.waited, answered.n_draft, n_new)
        if not answered.is_final:
            segment.tokens, segment.n_recognised = hypothesis.tokens, answered.n_samples
        continuation = self._continue(segment, hypothesis)
        if continuation is None:
            self._note_work(answered, work)
            return self._lose(segment, answered, "its final text contradicts its stable text")
        recognised = Recognition(hypothesis.tokens, continuation, work)
        text, language = continuation.hypothesis.text, continuation.hypothesis.language
        if segment.marks is None or not text:
            self._note_work(answered, work)
            return self._use(segment, answered, recognised, Marks())
        answered.recognised, segment.in_flight = recognised, answered
        return [Punctuate(answered.of, text[segment.marks.begin :], language)]

    def _punctuated(
        self, segment: SegmentState, answered: PassInFlight, event: Punctuated
    ) -> list[Action]:
        recognised = answered.recognised
        assert recognised is not None, "marks are ordered for a hypothesis"
        self._note_work(answered, recognised.work.with_marks(event.costs, event.waited))
        return self._use(segment, answered, recognised, event.marks)

    def _use(
        self, segment: SegmentState, answered: PassInFlight, recognised: Recognition, found: Marks
    ) -> list[Action]:
        """Use the hypothesis of a pass, and the marks that were found for its text."""
        hypothesis, decided = recognised.continuation.hypothesis, segment.marks
        marked = Marked(hypothesis) if decided is None else decided.over(hypothesis, found)
        if answered.is_final:
            return self._final(segment, marked)
        if segment.pause is not None:
            segment.pause.prepared = marked
        if not hypothesis.text:
            return []
        shown = marked.in_partial()
        segment.hypothesis, segment.n_heard = shown, answered.n_samples
        if not segment.options.partials:
            return []
        heard = Samples(answered.n_samples)
        segment.stable.receive(recognised.tokens, recognised.continuation, heard)
        if decided is not None and not hypothesis.is_suspicious:
            decided.decide(found, len(segment.stable.text))
        return [self._partial(segment, shown)]

    def _continue(self, segment: SegmentState, hypothesis: Hypothesis) -> Continuation | None:
        """Make a hypothesis begin with the stable text; None if it contradicts that."""
        continuation = segment.stable.continued_by(hypothesis)
        if continuation is None or continuation.hypothesis.language is not None:
            return continuation
        if not continuation.hypothesis.text or segment.hypothesis is None:
            return continuation
        # The model heard nothing any more, but there is stable text of a known language.
        language = segment.hypothesis.language
        return replace(continuation, hypothesis=replace(continuation.hypothesis, language=language))

    def _partial(self, segment: SegmentState, hypothesis: Hypothesis) -> Publish:
        n_stable, end = segment.n_stable, Samples(segment.start + segment.n_heard)
        text, language = hypothesis.text, hypothesis.language
        return Publish(Partial(segment.number, text, n_stable, language, segment.start, end))

    def _lose(self, segment: SegmentState, answered: PassInFlight, reason: str) -> list[Action]:
        if answered.is_final:
            return self._fail(segment, reason)
        if segment.pause is not None:
            segment.pause.is_hopeless = True
        return []

    def _begin_again(self, segment: SegmentState, answered: PassInFlight) -> list[Action]:
        """Replace a pass that the engine gave up in favour of others."""
        if answered.is_promoted:  # given up before the order to promote it arrived
            return [self._begin(segment, Rank.FINAL, answered.n_samples)]
        return self._fail(segment, "it was stopped") if answered.is_final else []

    # Pauses and ends

    def _pause(self, event: SpeechPaused) -> list[Action]:
        if not self._settings.speculates:
            return []
        segment = self._segments[event.segment]
        segment.pause = Pause(event.end - segment.start)
        return [*self._abandon(segment), *self._begin_what_is_due(segment)]

    def _resume(self, segment: SegmentState) -> list[Action]:
        """Continue the segment; the pass in flight counts as a partial, if those are wanted."""
        segment.pause = None
        return [] if segment.options.partials else self._abandon(segment)

    def _end_segment(self, event: SpeechEnded) -> list[Action]:
        segment = self._segments[event.segment]
        pause, in_flight, n_samples = segment.pause, segment.in_flight, event.end - event.start
        segment.ended = event
        if pause is not None and pause.prepared is not None and pause.n_samples == n_samples:
            return self._final(segment, pause.prepared)
        is_speculative = in_flight is not None and in_flight.of.rank is Rank.SPECULATIVE
        if in_flight is not None and is_speculative and in_flight.n_samples == n_samples:
            in_flight.promote()
            return [Promote(in_flight.of)]
        return [*self._abandon(segment), self._begin(segment, Rank.FINAL, n_samples)]

    def _final(self, segment: SegmentState, marked: Marked) -> list[Action]:
        is_cut = segment.ended is not None and segment.ended.reason == "length"
        return self._decide(segment, segment.final(marked.in_final(is_cut=is_cut)))

    def _fail(self, segment: SegmentState, reason: str) -> list[Action]:
        """Decide a segment whose final pass failed: keep the text that was recognised before."""
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

    def _decide(self, segment: SegmentState, *outcomes: Outcome) -> list[Action]:
        segment.outcomes = outcomes
        return [Release(segment.number), *self._publish_outcomes()]

    def _publish_outcomes(self) -> list[Action]:
        """Publish all outcomes before which nothing is owed."""
        actions: list[Action] = []
        while self._unpublished and self._unpublished[0].outcomes is not None:
            entry = self._unpublished.popleft()
            for outcome in entry.outcomes or ():
                actions.append(self._number(outcome))
                if isinstance(outcome, Final) and isinstance(entry, SegmentState):
                    actions += self._align(outcome, entry)
            if isinstance(entry, SegmentState) and not entry.awaits_words:
                del self._segments[entry.number]
        return actions + self._end_stream_if_settled()

    def _align(self, final: Final, segment: SegmentState) -> list[Action]:
        self._n_finals += 1
        if not final.text or not segment.options.words:
            return []
        segment.awaits_words = True
        return [segment.align(final)]

    def _restore(self, final: Final, samples: Float32Array) -> list[Action]:
        number, start, end = final.segment, final.start, final.end
        segment = SegmentState(
            number, start, self._options, StablePrefix(None), audio=GrowingSamples(samples)
        )
        segment.ended = SpeechEnded(number, start, end, final.reason)
        segment.outcomes, segment.awaits_words = (final,), True
        self._segments[number] = segment
        if self._traits.word_method is None:
            return [segment.align(final)]
        return [self._begin(segment, Rank.FINAL, len(samples))]  # for the times of its tokens

    def _time_restored(
        self, segment: SegmentState, event: Recognised | Punctuated | PassFailed | PassAbandoned
    ) -> list[Action]:
        """Order the words of a restored final, with the times of its tokens if it has them."""
        assert segment.outcomes is not None, "a restored final is an outcome"
        [final] = [outcome for outcome in segment.outcomes if isinstance(outcome, Final)]
        if isinstance(event, Recognised):
            segment.decided = as_published(event.hypothesis, final.text)
        return [Release(segment.number), segment.align(final)]

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
        self._duration = None  # so that it is published once
        return [self._number(end)]

    def _number(self, message: Durable) -> Publish:
        self._seq += 1
        return Publish(message, self._seq)


def _shown_only(stable: StableText) -> StableText:
    """Return a stable text of which only what listeners have is kept."""
    text = shown_text(stable)
    return StableText(stable.segment, stable.start, text, tokens=())
