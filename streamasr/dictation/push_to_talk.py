"""Begin and end of utterances, as controlled by shortcuts; pure.

    idle ──start──> recording ──stop──> tail ──0.4 s──> idle
                        ^                │
                        └────start───────┘      cancel: from anywhere to idle

The tail is recorded, too, so that the last word is complete although the key was released during
it. A start during the tail continues the same utterance: on some desktops, a key that repeats while
it is held gives a release and a press many times a second, and speakers press again when they have
not finished. A second start or stop has no effect.

After the end of an utterance its text is still pending. Others may begin meanwhile.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

TAIL_S: Final = 0.4
"""Default length of the tail in seconds."""
LONGEST_S: Final = 600.0
"""Default maximum length of an utterance in seconds."""

State: TypeAlias = Literal["idle", "listening", "finishing"]
"""State shown to the user: `finishing` in the tail and while text is pending."""
SoundName: TypeAlias = Literal["start", "stop", "cancel"]


@dataclass(frozen=True, slots=True)
class Started:
    """A start was requested, `at` seconds on any monotonic clock."""

    at: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """A stop was requested."""

    at: float


@dataclass(frozen=True, slots=True)
class Toggled:
    """A start or a stop was requested, by one key for both."""

    at: float


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Request not to type pending text."""


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A time requested with `SetTimer` has come."""

    at: float


@dataclass(frozen=True, slots=True)
class AudioArrived:
    """The first audio of an utterance has arrived."""

    utterance: int


@dataclass(frozen=True, slots=True)
class Done:
    """All text of an utterance has been typed, or the utterance failed."""

    utterance: int


Event: TypeAlias = Started | Stopped | Toggled | Cancelled | TimerFired | AudioArrived | Done


@dataclass(frozen=True, slots=True)
class Begin:
    """Record from the pre-roll on, and type the recognised text."""

    utterance: int


@dataclass(frozen=True, slots=True)
class End:
    """Send no more audio of the utterance; answer with `Done` when all its text is typed."""

    utterance: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """Type no more text of the utterance; this action has no answer."""

    utterance: int


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Answer with `TimerFired` at this time."""

    at: float


@dataclass(frozen=True, slots=True)
class Play:
    """Play a sound to the speaker."""

    sound: SoundName


Action: TypeAlias = Begin | End | Abandon | SetTimer | Play


@dataclass(frozen=True, slots=True)
class _Recording:
    utterance: int
    latest: float
    """Time at which the utterance ends by itself, because the stop was lost or forgotten."""
    until: float | None = None
    """The end of the tail; None before it."""


class PushToTalk:
    """State machine of push to talk; see the module."""

    def __init__(self, *, tail_s: float = TAIL_S, longest_s: float = LONGEST_S) -> None:
        """Begin idle.

        Args:
            tail_s: seconds recorded after a stop.
            longest_s: seconds after which an utterance ends without a stop.
        """
        self._tail_s = tail_s
        self._longest_s = longest_s
        self._n_begun = 0
        self._recording: _Recording | None = None
        self._pending: list[int] = []

    @property
    def state(self) -> State:
        """Current state."""
        if self._recording and self._recording.until is None:
            return "listening"
        return "finishing" if self._recording or self._pending else "idle"

    def receive(self, event: Event) -> list[Action]:
        """Process an event; return the actions to execute, in order."""
        match event:
            case Toggled(at):
                return self._stop(at) if self.state == "listening" else self._start(at)
            case Started(at):
                return self._start(at)
            case Stopped(at):
                return self._stop(at)
            case Cancelled():
                return self._cancel()
            case TimerFired(at):
                return self._fire(at)
            case AudioArrived(utterance):
                is_ours = self._recording and self._recording.utterance == utterance
                return [Play("start")] if is_ours else []
            case Done(utterance):
                return self._finish(utterance)

    def _start(self, at: float) -> list[Action]:
        if self._recording is None:
            self._n_begun += 1
            self._recording = _Recording(self._n_begun, at + self._longest_s)
            return [Begin(self._n_begun), SetTimer(self._recording.latest)]
        self._recording = _Recording(self._recording.utterance, self._recording.latest)
        return []

    def _stop(self, at: float) -> list[Action]:
        if self._recording is None or self._recording.until is not None:
            return []
        until = at + self._tail_s
        self._recording = _Recording(self._recording.utterance, self._recording.latest, until)
        return [SetTimer(until)]

    def _fire(self, at: float) -> list[Action]:
        """End the tail or a forgotten utterance; an earlier timer may fire before either is due."""
        if self._recording is None:
            return []
        if self._recording.until is None:
            return self._stop(at) if at >= self._recording.latest else []
        if at < self._recording.until:
            return []
        utterance = self._recording.utterance
        self._recording = None
        self._pending.append(utterance)
        return [End(utterance), Play("stop")]

    def _cancel(self) -> list[Action]:
        utterances = [*self._pending, *([self._recording.utterance] if self._recording else [])]
        self._pending, self._recording = [], None
        return [*map(Abandon, utterances), *([Play("cancel")] if utterances else [])]

    def _finish(self, utterance: int) -> list[Action]:
        if self._recording and self._recording.utterance == utterance:
            self._recording = None  # the utterance failed
            return [Play("cancel")]
        if utterance in self._pending:
            self._pending.remove(utterance)
        return []
