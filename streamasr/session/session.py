"""What is to be done with every segment, and when; pure.

```
            SpeechStarted          SpeechEnded            Decoded (final)       Aligned
  (nothing) -------------> open ----------------> ended ----------------> final -------> (nothing)
                            |  ^                    |                       |
          partial due: Encode  Encoded: Decode      Encode the whole        Align
                               Decoded: partial
```

* While a segment is open, a partial is due whenever `partial_interval` of new audio has come and no
  other partial of it is on its way: only the newest waits, and a slow machine shows fewer of them.
* When it has ended, its exact audio is encoded and decoded once more for the final. A partial still
  on its way is abandoned: finals go first.
* Finals are published in the order of their segments, whatever order the answers come in. A final
  that had text is aligned; its words follow when they are ready.
* A pass that failed costs its own segment only: a partial is dropped, a final becomes a gap.

The session keeps the samples of a segment until its final is out and its words are known. It has no
clock, queue, process or socket: time is the audio's.
"""

from dataclasses import dataclass, field
from typing import assert_never

import numpy as np

from streamasr.events import (
    AbandonPass,
    Action,
    Align,
    Aligned,
    Decode,
    Decoded,
    Encode,
    Encoded,
    Final,
    Gap,
    Hypothesis,
    Partial,
    Pass,
    PassAbandoned,
    PassFailed,
    Publish,
    SessionEvent,
    Speech,
    SpeechContinued,
    SpeechEnded,
    SpeechStarted,
    Words,
)
from streamasr.units import Float32Array, Samples


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What the listeners of a session want."""

    partial_interval: Samples | None
    """New audio between two partials; None for no partials."""
    wants_words: bool


@dataclass(slots=True)
class _Segment:
    """A segment whose final or words are still owed."""

    start: Samples
    chunks: list[Float32Array] = field(default_factory=list)
    n_samples: int = 0
    n_encoded: int = 0  # of the last partial that was asked for
    partial_in_flight: bool = False
    ended: SpeechEnded | None = None
    outcome: Final | Gap | None = None
    is_published: bool = False  # false while an earlier segment holds the outcome up

    def append(self, samples: Float32Array) -> None:
        self.chunks.append(samples)
        self.n_samples += len(samples)

    def samples(self) -> Float32Array:
        """All samples so far, or exactly the segment once it has ended."""
        joined = np.concatenate(self.chunks) if self.chunks else np.empty(0, dtype=np.float32)
        return joined if self.ended is None else joined[: self.ended.end - self.start]


class Session:
    """One stream of speech from its first sample to its last word."""

    def __init__(self, settings: SessionSettings) -> None:
        """Begin an empty session."""
        self._settings = settings
        self._segments: dict[int, _Segment] = {}  # in the order of their start

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
    def has_partial_in_flight(self) -> bool:
        """Whether a partial was asked for and has not come."""
        return any(segment.partial_in_flight for segment in self._segments.values())

    def receive(self, event: SessionEvent) -> list[Action]:
        """Take note of an event; what is to be done because of it, in order."""
        match event:
            case SpeechStarted(segment=number, start=start):
                self._segments[number] = _Segment(start)
                return [Publish(Speech(number, start))]
            case SpeechContinued(segment=number, samples=samples):
                self._segments[number].append(samples)
                return self._partial_if_due(number)
            case SpeechEnded():
                return self._end(event)
            case Encoded(of=of, embeddings=embeddings):
                if not self._is_awaited(of):
                    return self._drop_partial(of)
                return [Decode(of, embeddings)]
            case Decoded(of=of, hypothesis=hypothesis):
                return self._final(of, hypothesis) if of.is_final else self._partial(of, hypothesis)
            case PassFailed(of=of, message=message):
                return self._gap(of, message) if of.is_final else self._drop_partial(of)
            case PassAbandoned(of=of):
                return self._gap(of, "it was stopped") if of.is_final else self._drop_partial(of)
            case Aligned(segment=number, words=words, method=method):
                del self._segments[number]
                return [Publish(Words(number, words, method))]
            case _:
                assert_never(event)

    def _is_awaited(self, of: Pass) -> bool:
        segment = self._segments.get(of.segment)
        return segment is not None and (of.is_final or segment.ended is None)

    def _partial_if_due(self, number: int) -> list[Action]:
        segment = self._segments[number]
        interval = self._settings.partial_interval
        if interval is None or segment.partial_in_flight:
            return []
        if segment.n_samples - segment.n_encoded < interval:
            return []
        segment.partial_in_flight = True
        segment.n_encoded = segment.n_samples
        return [Encode(Pass(number, is_final=False), segment.samples())]

    def _partial(self, of: Pass, hypothesis: Hypothesis) -> list[Action]:
        is_awaited = self._is_awaited(of)
        self._drop_partial(of)
        if not is_awaited or not hypothesis.text:
            return []
        segment = self._segments[of.segment]
        end = Samples(segment.start + segment.n_encoded)
        partial = Partial(of.segment, hypothesis.text, hypothesis.language, segment.start, end)
        return [Publish(partial)]

    def _drop_partial(self, of: Pass) -> list[Action]:
        if segment := self._segments.get(of.segment):
            segment.partial_in_flight = False
        return []

    def _end(self, event: SpeechEnded) -> list[Action]:
        segment = self._segments[event.segment]
        segment.ended = event
        actions: list[Action] = []
        if segment.partial_in_flight:
            actions.append(AbandonPass(Pass(event.segment, is_final=False)))
        actions.append(Encode(Pass(event.segment, is_final=True), segment.samples()))
        return actions

    def _final(self, of: Pass, hypothesis: Hypothesis) -> list[Action]:
        ended = self._segments[of.segment].ended
        assert ended is not None, "a final pass begins when its segment has ended"
        text, language = hypothesis.text, hypothesis.language
        return self._decide(Final(of.segment, text, language, ended.start, ended.end, ended.reason))

    def _gap(self, of: Pass, message: str) -> list[Action]:
        ended = self._segments[of.segment].ended
        assert ended is not None, "a final pass begins when its segment has ended"
        return self._decide(Gap(of.segment, ended.start, ended.end, message))

    def _decide(self, outcome: Final | Gap) -> list[Action]:
        """Note a segment's outcome, and publish all that no earlier segment holds up."""
        self._segments[outcome.segment].outcome = outcome
        actions: list[Action] = []
        for segment in list(self._segments.values()):
            if segment.outcome is None:
                break
            if not segment.is_published:
                actions += self._publish(segment, segment.outcome)
        return actions

    def _publish(self, segment: _Segment, outcome: Final | Gap) -> list[Action]:
        segment.is_published = True
        actions: list[Action] = [Publish(outcome)]
        if isinstance(outcome, Final) and outcome.text and self._settings.wants_words:
            actions.append(
                Align(
                    outcome.segment,
                    outcome.start,
                    segment.samples(),
                    outcome.text,
                    outcome.language,
                )
            )
        else:
            del self._segments[outcome.segment]
        return actions
