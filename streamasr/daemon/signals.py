"""Signals of the daemon.

SIGTERM, SIGINT    stop; a second one stops at once
SIGHUP             read the configuration again
SIGUSR1, SIGUSR2   close and open the microphone
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def handled_signals(
    *,
    stop: Callable[[], None],
    reload: Callable[[], None],
    pause: Callable[[], None],
    unpause: Callable[[], None],
) -> Iterator[None]:
    """Call these functions in the running event loop, until the context is left."""
    handlers = {
        signal.SIGTERM: stop,
        signal.SIGINT: stop,
        signal.SIGHUP: reload,
        signal.SIGUSR1: pause,
        signal.SIGUSR2: unpause,
    }
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
