"""A file played as a microphone: every block in its moment, and not one sample less."""

import asyncio
import math
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.audio.capture import Captured, CaptureEvent
from streamasr.audio.file import open_audio
from streamasr.audio.paced import BLOCK, PacedFile
from streamasr.core.errors import AudioError, ConfigError
from streamasr.core.units import SAMPLE_RATE, Float32Array
from tests.support.audio_files import cut_off, tone, write_audio
from tests.support.errors import raises


class ManualClock:
    """Time that passes only where somebody sleeps, and a little too long each time."""

    def __init__(self, oversleeps: float = 0.0) -> None:
        self.now = 1000.0
        self.oversleeps = oversleeps

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds + (self.oversleeps if seconds else 0.0)


async def play(
    file: PacedFile, clock: ManualClock, busy: list[float] | None = None
) -> tuple[Float32Array, list[float]]:
    """Return all samples, and when each block came; the receiver may be busy after some of them."""
    busy = list(busy or [])
    blocks, times = [np.zeros(0, np.float32)], []
    async with aclosing(file.events()) as events:
        async for event in events:
            blocks.append(samples_of(event))
            times.append(clock.now)
            clock.now += busy.pop() if busy else 0.0
    return np.concatenate(blocks), times


def samples_of(event: CaptureEvent) -> Float32Array:
    assert isinstance(event, Captured)
    return event.samples


def read(path: Path) -> Float32Array:
    with open_audio(path) as audio:
        return np.concatenate(list(audio.blocks()))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.wav"
    return write_audio(path, tone(3.017, 44_100), rate=44_100)


@pytest.mark.parametrize("speed", [0.5, 1.0, 3.0])
async def test_each_block_comes_when_its_last_sample_is_spoken(clip: Path, speed: float) -> None:
    clock = ManualClock(oversleeps=0.003)
    samples, times = await play(PacedFile(clip, speed, clock=clock, sleep=clock.sleep), clock)
    assert samples.tobytes() == read(clip).tobytes()
    ends = np.minimum(np.arange(1, len(times) + 1) * BLOCK, len(samples)) / SAMPLE_RATE
    late = np.array(times) - 1000.0 - ends / speed
    assert late.min() > -1e-9
    assert late.max() < 0.003 + 1e-9  # oversleeping never adds up


@pytest.mark.parametrize("speed", [0, math.inf])
async def test_without_a_speed_the_receiver_alone_decides(clip: Path, speed: float) -> None:
    clock = ManualClock()
    samples, times = await play(PacedFile(clip, speed, clock=clock, sleep=clock.sleep), clock)
    assert samples.tobytes() == read(clip).tobytes()
    assert set(times) == {1000.0}


@settings(max_examples=15)
@given(busy=st.lists(st.floats(0, 0.7), max_size=30), speed=st.floats(0.2, 5))
async def test_a_late_receiver_catches_up(clip: Path, busy: list[float], speed: float) -> None:
    clock = ManualClock()
    samples, times = await play(
        PacedFile(clip, speed, clock=clock, sleep=clock.sleep), clock, busy[::-1]
    )
    assert samples.tobytes() == read(clip).tobytes()
    free = 1000.0
    for i, time in enumerate(times):
        due = 1000.0 + min((i + 1) * BLOCK, len(samples)) / SAMPLE_RATE / speed
        assert time == pytest.approx(max(due, free), abs=1e-6)
        free = time + (busy[i] if i < len(busy) else 0.0)


async def test_who_pauses_goes_on_where_it_stopped(clip: Path) -> None:
    async def some(events: AsyncGenerator[CaptureEvent, None], n: int) -> list[Float32Array]:
        blocks: list[Float32Array] = []
        async with aclosing(events):
            async for event in events:
                blocks.append(samples_of(event))
                if len(blocks) == n:
                    break
        return blocks

    async def listen() -> Float32Array:
        file = PacedFile(clip, 0)
        blocks = [await some(file.events(), n) for n in (1, 40, 10_000)]
        assert await some(file.events(), 10_000) == []
        return np.concatenate([block for part in blocks for block in part])

    assert (await listen()).tobytes() == read(clip).tobytes()


async def test_pausing_at_the_very_end_leaves_nothing(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "short.wav", tone(0.01))

    async def listen() -> list[CaptureEvent]:
        file = PacedFile(path, 0)
        async with aclosing(file.events()) as events:
            await anext(events)
        return [event async for event in file.events()]

    assert await listen() == []


async def test_cancelling_closes_the_file(clip: Path) -> None:
    def n_open() -> int:
        return sum(fd.exists() and fd.resolve() == clip for fd in Path("/proc/self/fd").iterdir())

    async def listen() -> None:
        async with aclosing(PacedFile(clip, 0.001).events()) as events:
            await anext(events)

    async def cancel(n_steps: int) -> None:
        task = asyncio.create_task(listen())
        for _ in range(n_steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for n_steps in (1, 2, 3, 10, 100, 1000):
        await cancel(n_steps)
        assert n_open() == 0


async def test_what_breaks_off_is_delivered_up_to_there(tmp_path: Path) -> None:
    path = cut_off(write_audio(tmp_path / "clip.wav", tone(4.0)), 0.5)
    blocks: list[Float32Array] = []

    async def listen() -> None:
        async for event in PacedFile(path, 0).events():
            blocks.append(samples_of(event))  # noqa: PERF401 (an error comes after the last)

    with raises(AudioError, "breaks_off"):
        await listen()
    assert sum(map(len, blocks)) == pytest.approx(2 * SAMPLE_RATE, abs=2000)


@pytest.mark.parametrize("speed", [-1.0, -math.inf, math.nan])
def test_impossible_speeds_are_refused(clip: Path, speed: float) -> None:
    with raises(ConfigError, "value_out_of_range"):
        PacedFile(clip, speed)


async def test_a_pipe_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    async def listen() -> None:
        await anext(PacedFile(pipe).events())

    with raises(AudioError, "not_a_file"):
        await listen()


async def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    async def listen() -> None:
        await anext(PacedFile(tmp_path / "none.wav").events())

    with raises(AudioError, "no_such_file"):
        await listen()
