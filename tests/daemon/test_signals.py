"""Signals reach their functions while the context is open, and have their default after it."""

import os
import signal

import pytest

from streamasr.daemon.signals import handled_signals
from tests.support.waiting import eventually


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGTERM, "stop"),
        (signal.SIGINT, "stop"),
        (signal.SIGHUP, "reload"),
        (signal.SIGUSR1, "pause"),
        (signal.SIGUSR2, "unpause"),
    ],
)
async def test_a_signal_calls_its_function(number: signal.Signals, name: str) -> None:
    called: list[str] = []
    with handled_signals(
        stop=lambda: called.append("stop"),
        reload=lambda: called.append("reload"),
        pause=lambda: called.append("pause"),
        unpause=lambda: called.append("unpause"),
    ):
        os.kill(os.getpid(), number)
        await eventually(lambda: bool(called))
    assert called == [name]
    expected = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    assert signal.getsignal(number) == expected
