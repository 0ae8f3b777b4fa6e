"""Limits of a download for failures, silence and slowness."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_SLOWEST: Final = 100
"""Bytes per second below which a connection is given up."""

STUBBORN_ATTEMPTS: Final = 2
"""Attempts at failures that are rarely temporary."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of a download."""

    connect_s: float = 15.0
    silence_s: float = 30.0
    """Seconds without a byte after which the connection counts as dead."""
    attempts: int = 6
    first_wait_s: float = 1.0
    """Pause after the first failure; it doubles with each in a row, up to `longest_wait_s`."""
    longest_wait_s: float = 60.0
    longest_asked_s: float = 300.0
    """Longest pause that a server may ask for (`Retry-After`); a longer one is an error."""
    sleep: Callable[[float], object] = time.sleep
    chance: Callable[[], float] = random.random
    """Random number 0..1, which spreads the attempts of many clients."""
    now: Callable[[], float] = time.time

    def wait_s(self, n_failures: int) -> float:
        """Return the pause after so many failures in a row."""
        longest = min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(n_failures - 1, 30))
        return longest * (0.5 + 0.5 * self.chance())


class TransientError(Exception):
    """A failure that a later attempt may not have."""

    def __init__(
        self,
        reason: str,
        asked_s: float | None = None,
        *,
        code: str = "connection_failed",
        is_stubborn: bool = False,
    ) -> None:
        """Describe the failure.

        Args:
            reason: the middle of a sentence.
            asked_s: seconds of the pause that the server asks for.
            code: of the `DownloadError`, if no attempt succeeds.
            is_stubborn: whether the failure is rarely temporary, so that two attempts are enough.
        """
        super().__init__(reason)
        self.code = code
        self.asked_s = asked_s
        self.is_stubborn = is_stubborn


class Pace:
    """Detects a server that sends a byte now and then, below every time limit of a read."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._since = policy.now()
        self._n_bytes = 0

    def is_hopeless(self, n_bytes: int) -> bool:
        """Add received bytes; return whether they are too few for the time that has passed."""
        self._n_bytes += n_bytes
        seconds = self._policy.now() - self._since
        if seconds <= 2 * self._policy.silence_s:
            return False
        is_slow = self._n_bytes < _SLOWEST * seconds
        self._since, self._n_bytes = self._since + seconds, 0
        return is_slow
