"""Waiting in tests: for a claim to become true, for other tasks, and for the loop's clock.

A test never sleeps for a fixed time. It waits for an event, or polls a claim here, or moves the
clock of its event loop.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

TIMEOUT_S: Final = 60.0
"""Far above what anything takes, so that only a claim that stays false is reported."""


async def eventually(is_so: Callable[[], bool]) -> None:
    """Wait until a claim is true; the deadline is the test's."""
    while not is_so():
        await asyncio.sleep(0.005)


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait without an event loop until a claim is true.

    Raises:
        TimeoutError: the claim was still false after `TIMEOUT_S`.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


async def let_others_run() -> None:
    """Let every other task run until it waits for something from outside."""
    for _ in range(100):
        await asyncio.sleep(0)


class LoopClock:
    """Clock of the running event loop, which a test can move.

    Timers that become due run at once; sockets and threads go on in real time. The deadline of the
    test is a timer, too, so all moves together must stay below it.
    """

    def __init__(self) -> None:
        """Take over the clock of the running loop."""
        loop = asyncio.get_running_loop()
        self._ahead_s = 0.0
        real = loop.time
        loop.time = lambda: real() + self._ahead_s  # type: ignore[method-assign]

    async def advance(self, seconds: float) -> None:
        """Let every task begin to wait, move the clock, and let those run whose timers are due."""
        await let_others_run()
        self._ahead_s += seconds
        await let_others_run()
