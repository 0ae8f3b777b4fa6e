"""What live audio is made of: samples, audio that is missing, and what to tell the listeners.

A capture counts time: from its first event on, the samples of all `Captured` and `Missed` together
are the time that passed while it listened. Whoever adds them up has the session's clock.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from streamasr.core.units import Float32Array, Samples

MissReason: TypeAlias = Literal["device_lost", "suspend", "overflow", "backlog"]
"""Why audio is missing: the device was not there or gave nothing; the machine slept; the
device's own buffer ran over; our queue ran over, because nobody took the blocks in time."""

TroubleCode: TypeAlias = Literal["device_lost", "device_back", "overflow", "backlog"]
"""What changed: the device cannot be opened, or gave nothing more; it is open (again);
audio begins to be lost for the reason of the same name."""


@dataclass(frozen=True, slots=True, eq=False)  # an array has no truth value to compare by
class Captured:
    """The next samples."""

    samples: Float32Array
    """(n,), n > 0, mono at SAMPLE_RATE, -1..1; the receiver owns them."""


@dataclass(frozen=True, slots=True)
class Missed:
    """Audio that belongs here and is not there; what follows does not continue what came before.

    When a device is lost, one of these comes at once with what is missing so far, so that an open
    segment can end there; another follows with the rest when the device is back.
    """

    duration: Samples
    """At least 1."""
    reason: MissReason


@dataclass(frozen=True, slots=True)
class Troubled:
    """Something that listeners should know, told once for each change."""

    code: TroubleCode
    message: str
    """One sentence for people."""


CaptureEvent: TypeAlias = Captured | Missed | Troubled


class Capture(Protocol):
    """A source of live audio."""

    def events(self) -> AsyncGenerator[CaptureEvent, None]:
        """Listen, until the source is over or the iterator is closed.

        Closing the iterator (`contextlib.aclosing`) closes the source: whoever pauses, closes. A
        later call listens anew.

        Raises:
            AudioError: the source cannot be used at all, and trying again will not help.
        """
