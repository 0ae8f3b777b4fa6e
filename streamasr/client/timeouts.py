"""The times that a client waits for a server."""

import math
import random
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The times that a client waits for a server, in seconds."""

    open: float = 60.0
    """For each answer of a server that is there; it may be loading its models."""
    first: float = 0.0
    """For the first connection, all attempts together; 0 tries once."""
    resume: float = 300.0
    """For a lost connection, all attempts together; servers forget the session at some time."""
    shortest_pause: float = 0.2
    """Before the second attempt; the pause doubles from attempt to attempt."""
    longest_pause: float = 5.0

    def pause(self, tries: int) -> float:
        """Return the pause after a number of failed attempts.

        It is random, so that the clients of a server that restarts do not come all at once.
        """
        pause = min(self.longest_pause, self.shortest_pause * 2.0 ** min(tries - 1, 32))
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret depends on it


DEFAULT_TIMEOUTS: Final = Timeouts()
"""For a program whose server is running."""

ENDLESS_TIMEOUTS: Final = Timeouts(first=math.inf, resume=math.inf)
"""For a program that runs before its server, and after it."""
