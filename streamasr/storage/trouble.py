"""Trouble with the disk, reported to people without repeating it."""

import math
import threading
import time
from collections.abc import Callable

from streamasr.core.notices import NoticeCode


class TroubleReporter:
    """Passes reports on, each code at most once in an interval; for use from any thread."""

    def __init__(self, receive: Callable[[NoticeCode, str], None], interval_s: float) -> None:
        """Prepare a reporter.

        Args:
            receive: called with a code and a sentence, in the thread that reports.
            interval_s: least time between two reports of the same code.
        """
        self._receive = receive
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._reported: dict[NoticeCode, float] = {}  # monotonic seconds

    def report(self, code: NoticeCode, sentence: str) -> None:
        """Pass a report on, unless the last one of this code was a short time ago."""
        now = time.monotonic()
        with self._lock:
            if now < self._reported.get(code, -math.inf) + self._interval_s:
                return
            self._reported[code] = now
        self._receive(code, sentence)
