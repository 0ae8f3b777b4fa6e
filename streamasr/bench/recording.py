"""Audio and messages of a session, with their times; pure.

All moments are on one clock, in seconds. All positions are seconds of the session's audio.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from streamasr.client import v1


@dataclass(frozen=True, slots=True)
class Received:
    """A message, and the time of its arrival."""

    at: float
    message: v1.ServerMessage


@dataclass(frozen=True, slots=True)
class SegmentLog:
    """All messages about one segment, with their times."""

    segment: int
    partials: tuple[tuple[float, v1.Partial], ...]
    final: tuple[float, v1.Final] | None
    words: tuple[float, v1.Words] | None


@dataclass(slots=True)
class Recording:
    """One session as its client observes it."""

    began: float = 0.0
    """Time at which the first sample was spoken."""
    pace: float = 1.0
    """Seconds of audio for each second; 0: as fast as the server took it."""
    positions: list[float] = field(default_factory=list)
    """Amount of audio that was sent after each block."""
    sent: list[float] = field(default_factory=list)
    """Time after each block."""
    stopped: float | None = None
    """Time at which the end of the audio was sent."""
    received: list[Received] = field(default_factory=list)

    @property
    def duration(self) -> float:
        """Amount of audio that was sent."""
        return self.positions[-1] if self.positions else 0.0

    def note_sent(self, position: float, at: float) -> None:
        """Note that all audio before `position` was sent."""
        self.positions.append(position)
        self.sent.append(at)

    def note_received(self, message: v1.ServerMessage, at: float) -> None:
        """Note the arrival of a message."""
        self.received.append(Received(at, message))

    def sent_at(self, position: float) -> float:
        """Return the time at which the audio before `position` was sent, or at which all was."""
        index = bisect_left(self.positions, position - _ROUNDING)
        if index < len(self.sent):
            return self.sent[index]
        return self.sent[-1] if self.stopped is None else self.stopped

    def due_at(self, position: float) -> float:
        """Return the time at which the audio before `position` was spoken, sent or not."""
        return self.began + position / self.pace if self.pace else self.sent_at(position)

    def segments(self) -> Iterator[SegmentLog]:
        """Yield the messages of each segment, in the order of the segments."""
        partials: dict[int, list[tuple[float, v1.Partial]]] = {}
        finals: dict[int, tuple[float, v1.Final]] = {}
        words: dict[int, tuple[float, v1.Words]] = {}
        for one in self.received:
            match one.message:
                case v1.Partial(segment=segment) as partial:
                    partials.setdefault(segment, []).append((one.at, partial))
                case v1.Final(segment=segment) as final:
                    finals[segment] = (one.at, final)
                case v1.Words(segment=segment) as times:
                    words[segment] = (one.at, times)
                case _:
                    pass
        for number in sorted({*partials, *finals, *words}):
            of_it = tuple(partials.get(number, ()))
            yield SegmentLog(number, of_it, finals.get(number), words.get(number))


_ROUNDING = 1e-6  # positions are whole samples, their seconds are floats
