"""The daemon under a service manager: the messages that it sends, and when.

READY is sent when clients can connect, before the models are loaded. A client may come then: it is
accepted, and served once they are loaded. With socket activation it could connect even before.
Units that wait for the daemon at start-up, a desktop for example, do not wait for the seconds of
loading; a wrong configuration or a missing model has been refused by then. STATUS distinguishes
a daemon that is loading from one that is ready.

WATCHDOG is sent while the decoder makes progress or is idle. A decoder that hangs, in a GPU's
driver for example, cannot be ended otherwise, since it is a thread. Encoder and aligner are
processes, which the daemon restarts itself. An event loop that hangs is noticed too, since it sends
the messages.
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

_CHECK_INTERVAL_S: Final = 1.0
_CHECKS_PER_WATCHDOG: Final = 8
_CLOSING_S: Final = 15.0
"""Time to close connections and to end the children."""

_STALLED: Final = "decoder stalled"


@dataclass(frozen=True, slots=True)
class Vitals:
    """State of the daemon."""

    status: str
    """A sentence for `systemctl status`."""
    pulse: int | None
    """Rises while the decoder works; None while it is idle."""


class KeepAlive:
    """Decides, as time passes, what to report to the service manager; pure."""

    def __init__(self, watchdog_s: float | None) -> None:
        """Begin with nothing reported.

        Args:
            watchdog_s: seconds without a keep-alive after which the service manager ends the
                daemon; None for never.
        """
        self._watchdog_s = watchdog_s
        self._sent: float | None = None  # time of the last keep-alive
        self._pulse: int | None = None
        self._status = ""
        self.is_stalled = False
        """True if the decoder made no progress since the last keep-alive, when one was due."""

    @property
    def check_interval_s(self) -> float:
        """Seconds between two checks; short, so that new progress is reported soon."""
        if self._watchdog_s is None:
            return _CHECK_INTERVAL_S
        return min(_CHECK_INTERVAL_S, self._watchdog_s / _CHECKS_PER_WATCHDOG)

    def check(self, now: float, vitals: Vitals) -> dict[str, str]:
        """Return the fields of the next message, none for no message.

        Args:
            now: seconds of a monotonic clock.
            vitals: at this time.
        """
        fields = {}
        if self._is_due(now):
            self.is_stalled = vitals.pulse is not None and vitals.pulse == self._pulse
            if not self.is_stalled:
                self._sent, self._pulse = now, vitals.pulse
                fields["WATCHDOG"] = "1"
        status = _STALLED if self.is_stalled else vitals.status
        if status != self._status:
            fields["STATUS"] = self._status = status
        return fields

    def _is_due(self, now: float) -> bool:
        if self._watchdog_s is None:
            return False
        return self._sent is None or now - self._sent >= self._watchdog_s / 2


class Supervision:
    """All that a service manager arranges for this process: messages, watchdog, socket."""

    def __init__(
        self,
        notifier: Notifier | None = None,
        watchdog_s: float | None = None,
        inherited: Inherited | None = None,
    ) -> None:
        """Prepare; without arguments for a process that is not a service.

        Args:
            notifier: sends the messages.
            watchdog_s: see `KeepAlive`.
            inherited: the socket that the service manager has opened.
        """
        self._notifier = notifier or Notifier()
        self._keep_alive = KeepAlive(watchdog_s)
        self.inherited = inherited

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str], pid: int) -> "Supervision":
        """Take over the arrangements for a process.

        Args:
            environ: with the variables of the service manager, which are removed, so that children
                do not find them.
            pid: of this process.

        Raises:
            ConfigError: the socket for this process cannot be used.
        """
        notifier = Notifier.from_environ(environ)
        watchdog_s = take_watchdog(environ, pid)
        return cls(notifier, watchdog_s, take_socket(environ, pid))

    @asynccontextmanager
    async def reporting(self, vitals: Callable[[], Vitals]) -> AsyncIterator[None]:
        """Report READY, and the vitals until the context is left.

        Args:
            vitals: returns the present ones.
        """
        self._report({"READY": "1"}, vitals)
        reporting = None
        if self._notifier.has_receiver:
            reporting = asyncio.create_task(self._keep_reporting(vitals))
        try:
            yield
        finally:
            if reporting:
                reporting.cancel()
                await asyncio.gather(reporting, return_exceptions=True)
            self._notifier.close()

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Report that the configuration is being read again, and the end of that."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.send(RELOADING="1", MONOTONIC_USEC=str(now_us))
        try:
            yield
        finally:
            self._notifier.send(READY="1")

    def stopping(self, within_s: float) -> None:
        """Report that the daemon finishes its work and stops.

        Args:
            within_s: greatest duration of that; the time that the unit allows is not shortened.
        """
        within_us = round((within_s + _CLOSING_S) * 1e6)
        self._notifier.send(STOPPING="1", EXTEND_TIMEOUT_USEC=str(within_us))

    async def _keep_reporting(self, vitals: Callable[[], Vitals]) -> None:
        while True:
            await asyncio.sleep(self._keep_alive.check_interval_s)
            was_stalled = self._keep_alive.is_stalled
            self._report({}, vitals)
            if self._keep_alive.is_stalled and not was_stalled:
                logger.error("decoder stalled; withholding the watchdog keep-alive")

    def _report(self, fields: dict[str, str], vitals: Callable[[], Vitals]) -> None:
        fields = fields | self._keep_alive.check(time.monotonic(), vitals())
        if fields:
            self._notifier.send(**fields)


def take_watchdog(environ: MutableMapping[str, str], pid: int) -> float | None:
    """Take the watchdog's time for this process out of an environment.

    Args:
        environ: with the variables of `sd_watchdog_enabled(3)`, which are removed, so that
            children do not find them.
        pid: of this process.

    Returns:
        Seconds without a keep-alive after which this process is ended; None for never.
    """
    receiver = environ.pop("WATCHDOG_PID", str(pid))
    microseconds = environ.pop("WATCHDOG_USEC", "")
    if receiver != str(pid) or not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    return int(microseconds) / 1e6
