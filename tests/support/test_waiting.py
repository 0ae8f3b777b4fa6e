"""Waiting in tests: the loop's clock can be moved, and no test sleeps for a fixed time."""

import ast
import asyncio

import pytest

from tests.support.paths import REPOSITORY
from tests.support.waiting import LoopClock


async def test_timers_run_when_the_clock_has_passed_them() -> None:
    clock = LoopClock()
    waiting = asyncio.create_task(asyncio.sleep(10.0))
    await clock.advance(9.0)
    assert not waiting.done()
    await clock.advance(2.0)
    assert waiting.done()


async def test_a_timeout_expires_when_the_clock_has_passed_it() -> None:
    clock = LoopClock()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10.0):
            await clock.advance(11.0)


@pytest.mark.process
def test_no_test_sleeps_for_a_fixed_time() -> None:
    sleeps = [
        f"{path}:{node.lineno}"
        for path in (REPOSITORY / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and _is_fixed_sleep(node) and path.name != "test_waiting.py"
    ]
    assert not sleeps


def _is_fixed_sleep(call: ast.Call) -> bool:
    match call:
        case ast.Call(func=ast.Attribute(attr="sleep"), args=[ast.Constant(value=seconds)]):
            return bool(seconds)
    return False
