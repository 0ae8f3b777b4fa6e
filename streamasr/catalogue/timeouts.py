"""How much patience a download has: with failures, with silence, with a trickle."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_SLOWEST: Final = 100
"""Bytes per second; a server that sends less hardly means it."""

STUBBORN_ATTEMPTS: Final = 2
"""At what hardly ever passes."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient a download is."""

    connect_s: float = 15.0
    silence_s: float = 30.0
    """Without a byte; then the connection counts as dead."""
    attempts: int = 6
    first_wait_s: float = 1.0
    """Doubles with each failure in a row, up to `longest_wait_s`."""
    longest_wait_s: float = 60.0
    longest_asked_s: float = 300.0
    """A server that asks for more patience than this (`Retry-After`) is told no."""
    sleep: Callable[[float], object] = time.sleep
    chance: Callable[[], float] = random.random
    """0..1, which spreads the tries of many clients."""
    now: Callable[[], float] = time.time

    def wait_s(self, n_failures: int) -> float:
        """How long to wait after so many failures in a row."""
        longest = min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(n_failures - 1, 30))
        return longest * (0.5 + 0.5 * self.chance())


class TransientError(Exception):
    """It did not work this time."""

    def __init__(
        self, reason: str, asked_s: float | None = None, *, is_stubborn: bool = False
    ) -> None:
        """Say why.

        Args:
            reason: the middle of a sentence.
            asked_s: how long the server asks to be left alone.
            is_stubborn: whether it hardly ever passes, so that a second try is enough.
        """
        super().__init__(reason)
        self.asked_s = asked_s
        self.is_stubborn = is_stubborn


class Pace:
    """Notices a server that sends a byte now and then, which no time limit of a read does."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._since = policy.now()
        self._n_bytes = 0

    def is_hopeless(self, n_bytes: int) -> bool:
        """So many more have come; whether that is too little for the time that has passed."""
        self._n_bytes += n_bytes
        seconds = self._policy.now() - self._since
        if seconds <= 2 * self._policy.silence_s:
            return False
        is_slow = self._n_bytes < _SLOWEST * seconds
        self._since, self._n_bytes = self._since + seconds, 0
        return is_slow
