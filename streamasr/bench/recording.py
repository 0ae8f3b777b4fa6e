"""What a session said and heard, and when; pure.

All moments are on one clock, in seconds. All positions are seconds of the session's audio.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from streamasr.client import v1


@dataclass(frozen=True, slots=True)
class Heard:
    """A message, and when it came."""

    at: float
    message: v1.ServerMessage


@dataclass(frozen=True, slots=True)
class Told:
    """All messages about one segment."""

    segment: int
    partials: tuple[tuple[float, v1.Partial], ...]
    final: tuple[float, v1.Final] | None
    words: tuple[float, v1.Words] | None


@dataclass(slots=True)
class Recording:
    """One session as its client saw it."""

    began: float = 0.0
    """When the first sample was spoken."""
    pace: float = 1.0
    """Seconds of audio for each second; 0: as fast as the server took it."""
    positions: list[float] = field(default_factory=list)
    """How much audio had been sent after each block."""
    sent: list[float] = field(default_factory=list)
    """When that was."""
    stopped: float | None = None
    """When the end of the audio was said."""
    heard: list[Heard] = field(default_factory=list)

    @property
    def duration(self) -> float:
        """How much audio was sent."""
        return self.positions[-1] if self.positions else 0.0

    def note_sent(self, position: float, at: float) -> None:
        """All audio before `position` has been handed over."""
        self.positions.append(position)
        self.sent.append(at)

    def note_heard(self, message: v1.ServerMessage, at: float) -> None:
        """A message came."""
        self.heard.append(Heard(at, message))

    def sent_at(self, position: float) -> float:
        """When the audio before `position` had been sent; of what never was, when all had been."""
        index = bisect_left(self.positions, position - _ROUNDING)
        if index < len(self.sent):
            return self.sent[index]
        return self.sent[-1] if self.stopped is None else self.stopped

    def due_at(self, position: float) -> float:
        """When the audio before `position` had been spoken, whether it could be sent or not."""
        return self.began + position / self.pace if self.pace else self.sent_at(position)

    def segments(self) -> Iterator[Told]:
        """The messages by segment, in the order of the segments."""
        partials: dict[int, list[tuple[float, v1.Partial]]] = {}
        finals: dict[int, tuple[float, v1.Final]] = {}
        words: dict[int, tuple[float, v1.Words]] = {}
        for one in self.heard:
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
            yield Told(number, of_it, finals.get(number), words.get(number))


_ROUNDING = 1e-6  # positions are whole samples, their seconds are floats
