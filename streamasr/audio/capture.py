"""Events of live audio: samples, audio that is missing, and troubles to report to clients.

A capture counts time: from its first event on, the samples of all `Captured` and `Missed` together
are the time that passed while it recorded. Their sum is the session's clock.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from streamasr.core.units import Float32Array, Samples

MissReason: TypeAlias = Literal["device_lost", "suspend", "overflow", "backlog"]
"""Reason why audio is missing: the device was absent or delivered nothing; the machine slept; the
device's own buffer overflowed; our queue overflowed, because the blocks were not taken in time."""

TroubleCode: TypeAlias = Literal["device_lost", "device_back", "overflow", "backlog"]
"""Change to report: the device cannot be opened, or stopped delivering; the device is open
(again); audio begins to be lost for the reason of the same name."""


@dataclass(frozen=True, slots=True, eq=False)  # an array has no truth value to compare by
class Captured:
    """The next samples."""

    samples: Float32Array
    """(n,), n > 0, mono at SAMPLE_RATE, -1..1; the receiver owns them."""


@dataclass(frozen=True, slots=True)
class Missed:
    """Audio that is missing at this place; the next samples do not continue the ones before.

    When a device is lost, a first `Missed` is emitted at once with the length so far, so that an
    open segment can end there; another follows with the rest when the device is back.
    """

    duration: Samples
    """At least 1."""
    reason: MissReason


@dataclass(frozen=True, slots=True)
class Troubled:
    """Trouble to report to clients, emitted once for each change."""

    code: TroubleCode
    message: str
    """One sentence for people."""


CaptureEvent: TypeAlias = Captured | Missed | Troubled


class Capture(Protocol):
    """Source of live audio."""

    def events(self) -> AsyncGenerator[CaptureEvent, None]:
        """Record until the source ends or the iterator is closed.

        Closing the iterator (`contextlib.aclosing`) closes the source; pausing is done this way. A
        later call opens the source again.

        Raises:
            AudioError: the source cannot be used at all, and trying again will not help.
        """
