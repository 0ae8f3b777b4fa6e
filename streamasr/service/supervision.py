"""The daemon under a service manager: when it is told what.

It hears READY when clients can connect, before the models are loaded. A client may come then: it is
let in, and served once they are, as the protocol says. With socket activation it could connect even
before. What waits for the daemon at start-up, a desktop for one, is not held up for the seconds of
loading; what cannot be configured or is not installed has been refused by then. STATUS says which
of the two it is.

It hears WATCHDOG while the decoder gets on or has nothing to do. A decoder that hangs, in a GPU's
driver for one, has no other way to be noticed: nobody can end a thread. The encoder and the aligner
are processes; the daemon restarts them itself. That the event loop hangs is noticed too: it is the
one who tells.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from streamasr.service.activation import Inherited, take_socket
from streamasr.service.notify import Notifier

logger = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
_LOOKS_PER_WATCHDOG: Final = 8
_FAREWELL_S: Final = 15.0
"""For goodbyes, and the end of the children."""

_STALLED: Final = "the decoder stands still"


@dataclass(frozen=True, slots=True)
class Vitals:
    """How the daemon is."""

    status: str
    """A sentence for `systemctl status`."""
    pulse: int | None
    """Rises while the decoder works; None while it has nothing to do."""


class Watch:
    """What the service manager is told of the vitals, as time goes on; pure."""

    def __init__(self, watchdog_s: float | None) -> None:
        """Begin with nothing told.

        Args:
            watchdog_s: seconds without a word after which the daemon is ended; None for never.
        """
        self._watchdog_s = watchdog_s
        self._told: float | None = None
        self._pulse: int | None = None
        self._status = ""
        self.is_stalled = False
        """Whether the decoder has stood still while a word was due."""

    @property
    def look_s(self) -> float:
        """Seconds from one look to the next; a decoder that gets on again is soon believed."""
        if self._watchdog_s is None:
            return _LOOK_S
        return min(_LOOK_S, self._watchdog_s / _LOOKS_PER_WATCHDOG)

    def look(self, now: float, vitals: Vitals) -> dict[str, str]:
        """The fields of the next message, none for no message.

        Args:
            now: seconds on a clock that never goes back.
            vitals: as they are.
        """
        fields = {}
        if self._is_due(now):
            self.is_stalled = vitals.pulse is not None and vitals.pulse == self._pulse
            if not self.is_stalled:
                self._told, self._pulse = now, vitals.pulse
                fields["WATCHDOG"] = "1"
        status = _STALLED if self.is_stalled else vitals.status
        if status != self._status:
            fields["STATUS"] = self._status = status
        return fields

    def _is_due(self, now: float) -> bool:
        if self._watchdog_s is None:
            return False
        return self._told is None or now - self._told >= self._watchdog_s / 2


class Supervision:
    """What a service manager has arranged for this process; all of it may be nothing."""

    def __init__(
        self,
        notifier: Notifier | None = None,
        watchdog_s: float | None = None,
        inherited: Inherited | None = None,
    ) -> None:
        """Prepare; `take` is for a process, this for whoever knows better.

        Args:
            notifier: where it is told.
            watchdog_s: see `Watch`.
            inherited: the socket that it has opened.
        """
        self._notifier = notifier or Notifier()
        self._watch = Watch(watchdog_s)
        self.inherited = inherited

    @classmethod
    def take(cls, environ: MutableMapping[str, str], pid: int) -> "Supervision":
        """Take over what is arranged for a process.

        Args:
            environ: where it is written; children do not find it there any more.
            pid: of this process.

        Raises:
            ConfigError: it was given what cannot be used.
        """
        notifier = Notifier.take(environ)
        watchdog_s = take_watchdog(environ, pid)
        return cls(notifier, watchdog_s, take_socket(environ, pid))

    @asynccontextmanager
    async def reporting(self, look: Callable[[], Vitals]) -> AsyncIterator[None]:
        """Clients can connect: say so, and how it goes, until the context is left."""
        self._tell({"READY": "1"}, look)
        telling = asyncio.create_task(self._go_on_telling(look)) if self._is_heard else None
        try:
            yield
        finally:
            if telling:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
            self._notifier.close()

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """The configuration is being read again."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.tell(RELOADING="1", MONOTONIC_USEC=str(now_us))
        try:
            yield
        finally:
            self._notifier.tell(READY="1")

    def stopping(self, within_s: float) -> None:
        """What is heard is being finished, and nothing else begun.

        Args:
            within_s: how long that may take; the time that the unit gives is not made shorter.
        """
        within_us = round((within_s + _FAREWELL_S) * 1e6)
        self._notifier.tell(STOPPING="1", EXTEND_TIMEOUT_USEC=str(within_us))

    @property
    def _is_heard(self) -> bool:
        return self._notifier.is_heard

    async def _go_on_telling(self, look: Callable[[], Vitals]) -> None:
        while True:
            await asyncio.sleep(self._watch.look_s)
            was_stalled = self._watch.is_stalled
            self._tell({}, look)
            if self._watch.is_stalled and not was_stalled:
                logger.error("the decoder stands still; the watchdog is not told that all is well")

    def _tell(self, fields: dict[str, str], look: Callable[[], Vitals]) -> None:
        fields = fields | self._watch.look(time.monotonic(), look())
        if fields:
            self._notifier.tell(**fields)


def take_watchdog(environ: MutableMapping[str, str], pid: int) -> float | None:
    """Seconds without a word after which this process is ended; None for never.

    Args:
        environ: where it is written; children do not find it there any more.
        pid: of this process.
    """
    for_whom = environ.pop("WATCHDOG_PID", str(pid))
    microseconds = environ.pop("WATCHDOG_USEC", "")
    if for_whom != str(pid) or not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    return int(microseconds) / 1e6
