"""When an utterance begins and ends: what the shortcuts do; pure.

    idle ──start──> recording ──stop──> tail ──0.4 s──> idle
                        ^                │
                        └────start───────┘      cancel: from anywhere to idle

The tail is recorded too, so that the last word is whole although the key was released on it. A
start during the tail goes on with the same utterance: keys that repeat while they are held give
some desktops a release and a press many times a second, and people press again when they find they
had not finished. A second start or stop changes nothing.

An utterance that has ended is not over: its text is still owed. Others may begin meanwhile.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

TAIL_S: Final = 0.4
LONGEST_S: Final = 600.0

State: TypeAlias = Literal["idle", "listening", "finishing"]
"""For people: `finishing` as long as text is owed and nothing is recorded."""
SoundName: TypeAlias = Literal["start", "stop", "cancel"]


@dataclass(frozen=True, slots=True)
class Started:
    """Somebody wants to speak, `at` seconds on any clock that never goes back."""

    at: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """They have finished."""

    at: float


@dataclass(frozen=True, slots=True)
class Toggled:
    """One key for both."""

    at: float


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Whatever was said shall not be typed."""


@dataclass(frozen=True, slots=True)
class Woke:
    """A time that was asked for has come."""

    at: float


@dataclass(frozen=True, slots=True)
class Heard:
    """The first audio of an utterance is there."""

    utterance: int


@dataclass(frozen=True, slots=True)
class Done:
    """All text of an utterance has been typed, or it failed."""

    utterance: int


Event: TypeAlias = Started | Stopped | Toggled | Cancelled | Woke | Heard | Done


@dataclass(frozen=True, slots=True)
class Begin:
    """Record, from the pre-roll on, and type what is recognised."""

    utterance: int


@dataclass(frozen=True, slots=True)
class End:
    """No more audio belongs to it; answer with `Done` when nothing is owed."""

    utterance: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """Type no more of it; there is no answer."""

    utterance: int


@dataclass(frozen=True, slots=True)
class Wake:
    """Answer with `Woke` at this time."""

    at: float


@dataclass(frozen=True, slots=True)
class Play:
    """Let the speaker hear it."""

    sound: SoundName


Action: TypeAlias = Begin | End | Abandon | Wake | Play


@dataclass(frozen=True, slots=True)
class _Recording:
    utterance: int
    latest: float
    """When it ends by itself: the key's release was lost, or the speaker forgot it."""
    until: float | None = None
    """The end of the tail; None before it."""


class PushToTalk:
    """See above."""

    def __init__(self, *, tail_s: float = TAIL_S, longest_s: float = LONGEST_S) -> None:
        """Begin idle.

        Args:
            tail_s: recorded after the end.
            longest_s: after which a forgotten utterance ends.
        """
        self._tail_s = tail_s
        self._longest_s = longest_s
        self._n_begun = 0
        self._recording: _Recording | None = None
        self._owed: list[int] = []

    @property
    def state(self) -> State:
        """What is going on."""
        if self._recording and self._recording.until is None:
            return "listening"
        return "finishing" if self._recording or self._owed else "idle"

    def receive(self, event: Event) -> list[Action]:
        """Take an event; what is to be done about it, in order."""
        match event:
            case Toggled(at):
                return self._stop(at) if self.state == "listening" else self._start(at)
            case Started(at):
                return self._start(at)
            case Stopped(at):
                return self._stop(at)
            case Cancelled():
                return self._cancel()
            case Woke(at):
                return self._wake(at)
            case Heard(utterance):
                is_ours = self._recording and self._recording.utterance == utterance
                return [Play("start")] if is_ours else []
            case Done(utterance):
                return self._finish(utterance)

    def _start(self, at: float) -> list[Action]:
        if self._recording is None:
            self._n_begun += 1
            self._recording = _Recording(self._n_begun, at + self._longest_s)
            return [Begin(self._n_begun), Wake(self._recording.latest)]
        self._recording = _Recording(self._recording.utterance, self._recording.latest)
        return []

    def _stop(self, at: float) -> list[Action]:
        if self._recording is None or self._recording.until is not None:
            return []
        until = at + self._tail_s
        self._recording = _Recording(self._recording.utterance, self._recording.latest, until)
        return [Wake(until)]

    def _wake(self, at: float) -> list[Action]:
        """A waking that was asked for earlier may find that nothing is due yet."""
        if self._recording is None:
            return []
        if self._recording.until is None:
            return self._stop(at) if at >= self._recording.latest else []
        if at < self._recording.until:
            return []
        utterance = self._recording.utterance
        self._recording = None
        self._owed.append(utterance)
        return [End(utterance), Play("stop")]

    def _cancel(self) -> list[Action]:
        utterances = [*self._owed, *([self._recording.utterance] if self._recording else [])]
        self._owed, self._recording = [], None
        return [*map(Abandon, utterances), *([Play("cancel")] if utterances else [])]

    def _finish(self, utterance: int) -> list[Action]:
        if self._recording and self._recording.utterance == utterance:
            self._recording = None  # it failed
            return [Play("cancel")]
        if utterance in self._owed:
            self._owed.remove(utterance)
        return []
