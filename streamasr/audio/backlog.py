"""Bounded queue of captured audio between the recording thread and its reader."""

import threading
from collections import deque

from streamasr.audio.capture import Captured, CaptureEvent, Missed, Troubled
from streamasr.core.units import Samples, to_seconds


class Backlog:
    """Queue between two threads that holds a limited amount of audio.

    When the queue is full, the oldest samples are dropped and replaced by a `Missed`: a reader that
    returns late receives the present, and the length of what was dropped.
    """

    def __init__(self, limit: Samples) -> None:
        """Create an empty queue that holds at most `limit` samples."""
        self._limit = limit
        self._events: deque[CaptureEvent] = deque()
        self._n_samples = 0
        self._is_overdue = False
        self._lock = threading.Lock()

    def put(self, event: CaptureEvent) -> None:
        """Append an event."""
        with self._lock:
            self._events.append(event)
            if isinstance(event, Captured):
                self._n_samples += len(event.samples)
                while self._n_samples > self._limit:
                    self._drop_oldest()

    def take(self) -> CaptureEvent | None:
        """Remove and return the oldest event; None when the queue is empty."""
        with self._lock:
            if not self._events:
                self._is_overdue = False
                return None
            event = self._events.popleft()
            if isinstance(event, Captured):
                self._n_samples -= len(event.samples)
            return event

    def _drop_oldest(self) -> None:
        before: list[CaptureEvent] = []
        while not isinstance(event := self._events.popleft(), Captured):
            before.append(event)
        n_dropped = len(event.samples)
        self._n_samples -= n_dropped
        if before and isinstance(last := before[-1], Missed) and last.reason == "backlog":
            before[-1] = Missed(Samples(last.duration + n_dropped), "backlog")
        else:
            before.append(Missed(Samples(n_dropped), "backlog"))
        if not self._is_overdue:
            self._is_overdue = True
            before.insert(0, self._trouble())
        self._events.extendleft(reversed(before))

    def _trouble(self) -> Troubled:
        seconds = to_seconds(self._limit)
        return Troubled(
            "backlog", f"Audio is being lost: more than {seconds:g} s of it were waiting."
        )
