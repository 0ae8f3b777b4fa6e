"""Work besides the sessions: it ends with its context, and its failures are logged."""

import asyncio

import pytest

from streamasr.daemon.background import background


async def test_work_runs_until_the_context_is_left() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with background(work()):
        await begun.wait()
        assert not ended.is_set()
    assert ended.is_set()


async def test_a_failure_is_logged_and_stops_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    other = asyncio.Event()

    async def succeed() -> None:
        await asyncio.sleep(0)
        other.set()

    async with background(fail(), succeed()):
        await other.wait()
    assert "ZeroDivisionError" in caplog.text
