"""Measurement of how long text takes, from the arrival of its audio to its publication."""

from collections import deque
from typing import Final, Protocol

from streamasr.core.events import Answer, Punctuated, Recognised
from streamasr.core.messages import Final as FinalText
from streamasr.core.messages import Message, Partial
from streamasr.core.units import Samples, to_samples

_MARK_EVERY: Final = to_samples(0.01)


class Observer(Protocol):
    """Receives the measurements of all sessions."""

    def audio_received(self, n_samples: int) -> None:
        """Count received audio."""

    def stage_worked(self, stage: str, seconds: float) -> None:
        """Count the time that a stage (encode, prefill, verify, decode, punctuate) worked."""

    def partial_published(self, latency_s: float) -> None:
        """Record a partial that was published so long after its last sample had arrived."""

    def final_published(self, latency_s: float) -> None:
        """Record a final that was published so long after its last sample had arrived."""


class Arrivals:
    """Arrival times of the samples that are not settled yet."""

    def __init__(self) -> None:
        """Begin without any."""
        self._marks: deque[tuple[Samples, float]] = deque()

    def __len__(self) -> int:
        return len(self._marks)

    def add(self, position: Samples, now: float) -> None:
        """Note that all samples before `position` have arrived.

        Blocks shorter than 10 ms share an entry, so that many of them take no room.
        """
        if len(self._marks) > 1 and position - self._marks[-2][0] < _MARK_EVERY:
            self._marks.pop()
        self._marks.append((position, now))

    def seconds_since(self, position: Samples, now: float) -> float | None:
        """Return the age of the last sample before `position`; None if it was forgotten."""
        return next((now - at for end, at in self._marks if end >= position), None)

    def forget_before(self, position: Samples) -> None:
        """Drop the times of samples before `position`."""
        while self._marks and self._marks[0][0] < position:
            self._marks.popleft()


class LatencyMeter:
    """Measures one session and reports to the observer of all."""

    def __init__(self, observer: Observer) -> None:
        """Begin with a new session."""
        self.arrivals = Arrivals()
        self._observer = observer

    def audio_received(self, n_samples: int) -> None:
        """Count samples before they are processed."""
        self._observer.audio_received(n_samples)

    def answered(self, answer: Answer) -> None:
        """Count the work that an answer of the engine took."""
        if isinstance(answer, Recognised | Punctuated):
            for stage, seconds in answer.costs.of_stages().items():
                self._observer.stage_worked(stage, seconds)

    def published(self, message: Message, now: float) -> None:
        """Record the latency of a partial or a final."""
        if not isinstance(message, Partial | FinalText):
            return
        seconds = self.arrivals.seconds_since(message.end, now)
        if seconds is None:
            return
        if isinstance(message, Partial):
            self._observer.partial_published(seconds)
        else:
            self._observer.final_published(seconds)
