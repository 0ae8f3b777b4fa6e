"""Trouble with the disk, reported to people without repeating it."""

import math
import threading
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

Trouble: TypeAlias = Literal["journal", "history_lost", "spool", "spool_full", "spool_behind"]
"""The journal cannot be written, messages wait in memory; messages were lost; audio cannot be
spooled; more audio waits for its final than is kept; the disk is too slow for the audio."""


class TroubleReporter:
    """Passes reports on, each code at most once in an interval; for use from any thread."""

    def __init__(self, receive: Callable[[Trouble, str], None], interval_s: float) -> None:
        """Prepare a reporter.

        Args:
            receive: called with a code and a sentence, in the thread that reports.
            interval_s: least time between two reports of the same code.
        """
        self._receive = receive
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._reported: dict[Trouble, float] = {}  # monotonic seconds

    def report(self, code: Trouble, sentence: str) -> None:
        """Pass a report on, unless the last one of this code was a short time ago."""
        now = time.monotonic()
        with self._lock:
            if now < self._reported.get(code, -math.inf) + self._interval_s:
                return
            self._reported[code] = now
        self._receive(code, sentence)
