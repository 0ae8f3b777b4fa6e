"""The session of a microphone: captured audio, lost audio, pauses, restarts, and the end."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamasr.audio.capture import Capture, Captured, CaptureEvent, Missed, Troubled
from streamasr.core.errors import AudioError
from streamasr.core.messages import End, Final, Gap
from streamasr.core.notices import Notice
from streamasr.core.session_names import MICROPHONE
from streamasr.core.units import Float32Array, Samples, to_samples
from streamasr.host.live_session import LiveSession
from streamasr.host.local_host import HostSettings, LocalSessionHost
from streamasr.host.microphone import MicrophoneSession
from streamasr.host.reader import Reader
from streamasr.host.recovery import recover
from tests.host.test_local_host import local_host
from tests.support.fakes import FakeEngine, PatientEngine, talk
from tests.support.waiting import eventually

TALK = talk(1.5)


class ScriptedCapture:
    """A source of audio that delivers what a test puts into it."""

    def __init__(self) -> None:
        self.script: asyncio.Queue[CaptureEvent | Exception | None] = asyncio.Queue()
        self.n_opened = 0
        self.is_open = False

    async def events(self) -> AsyncGenerator[CaptureEvent, None]:
        """See `Capture.events`."""
        self.n_opened += 1
        self.is_open = True
        try:
            while (event := await self.script.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.is_open = False

    def say(self, samples: Float32Array) -> None:
        """Deliver samples in blocks."""
        for start in range(0, len(samples), 1600):
            self.script.put_nowait(Captured(samples[start : start + 1600]))


class Desk:
    """A host with the session of a microphone."""

    def __init__(self, host: LocalSessionHost, *, has_source: bool, can_wait: bool) -> None:
        self.host = host
        self.capture = ScriptedCapture()
        open_capture: Callable[[], Capture] = lambda: self.capture  # noqa: E731 - typed
        self.session = MicrophoneSession(
            host, open_capture if has_source else None, can_wait=can_wait
        )

    @property
    def live(self) -> LiveSession:
        return self.host.sessions.find(MICROPHONE)

    def subscribe(self) -> Reader:
        return self.live.publisher.subscribe()


@asynccontextmanager
async def desk(
    directory: Path,
    settings: HostSettings | None = None,
    *,
    engine: FakeEngine | None = None,
    has_source: bool = True,
    can_wait: bool = False,
) -> AsyncIterator[Desk]:
    async with local_host(directory, settings, engine) as host:
        yield Desk(host, has_source=has_source, can_wait=can_wait)


@asynccontextmanager
async def running(at: Desk) -> AsyncIterator[Reader]:
    """Begin and run the session; yield a reader of it."""
    await at.session.begin()
    reader = at.subscribe()
    task = asyncio.create_task(at.session.run())
    try:
        yield reader
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not at.capture.is_open


def taken(reader: Reader) -> list[object]:
    """Return what a reader has got, notices included."""
    items: list[object] = []
    while (entry := reader.take()) is not None:
        items.append(entry.event)
    return items


def codes(items: list[object]) -> list[str]:
    return [item.code for item in items if isinstance(item, Notice)]


async def test_captured_audio_becomes_finals_until_the_source_ends(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, running(at) as reader:
        at.capture.say(TALK)
        at.capture.script.put_nowait(None)
        await at.live.is_over.wait()
        items = taken(reader)
        [final] = [item for item in items if isinstance(item, Final)]
        assert final.text
        assert items[-1] == End(Samples(len(TALK)), 1, 2)


async def test_lost_audio_is_a_gap_and_trouble_a_notice(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, running(at) as reader:
        at.capture.script.put_nowait(Troubled("device_lost", "The microphone is gone."))
        at.capture.script.put_nowait(Missed(Samples(4800), "device_lost"))
        await eventually(lambda: at.live.intake.position == 4800)
        await eventually(lambda: at.live.is_settled)
        items = taken(reader)
        assert codes(items) == ["device_lost"]
        assert [item for item in items if isinstance(item, Gap)] == [
            Gap(Samples(0), Samples(4800), "device_lost")
        ]


async def test_a_source_that_cannot_be_used_ends_the_session(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, running(at) as reader:
        at.capture.script.put_nowait(AudioError("The device has no input."))
        await at.live.is_over.wait()
        assert codes(taken(reader)) == ["audio"]


async def test_an_unexpected_exception_ends_the_session_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with desk(tmp_path) as at, running(at):
        at.capture.script.put_nowait(ZeroDivisionError())
        await at.live.is_over.wait()
    assert "ZeroDivisionError" in caplog.text


async def test_a_pause_closes_the_source_and_finishes_the_segment(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, running(at) as reader:
        at.capture.say(TALK[: len(TALK) - 20_000])  # in the middle of the segment
        await eventually(at.capture.script.empty)
        at.session.pause()
        at.session.pause()
        await eventually(lambda: not at.capture.is_open)
        await eventually(lambda: at.live.is_settled)
        items = taken(reader)
        assert codes(items) == ["paused"]
        assert [item.reason for item in items if isinstance(item, Final)] == ["flush"]
        at.session.unpause()
        at.session.unpause()
        await eventually(lambda: at.capture.is_open)
        assert codes(taken(reader)) == ["resumed"]
        assert at.capture.n_opened == 2


async def test_a_pause_before_the_session_begins_keeps_the_source_closed(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        at.session.pause()
        async with running(at):
            for _ in range(10):
                await asyncio.sleep(0)
            assert not at.capture.is_open
            at.session.unpause()
            await eventually(lambda: at.capture.is_open)


async def test_audio_of_a_device_is_dropped_only_after_half_a_minute_of_lag(
    tmp_path: Path,
) -> None:
    settings = HostSettings(max_lag=Samples(0))
    long_talk = talk(*[2.0] * 25)
    async with desk(tmp_path, settings, engine=PatientEngine()) as at, running(at):
        at.capture.say(long_talk)
        await eventually(at.capture.script.empty)
        assert to_samples(20.0) < at.live.lag < to_samples(35.0)
        assert at.live.intake.position < len(long_talk)
        at.session.pause()  # the rest becomes a gap
        await eventually(lambda: at.live.intake.position == len(long_talk))


async def test_a_file_waits_until_its_audio_can_be_taken(tmp_path: Path) -> None:
    engine = PatientEngine()
    settings = HostSettings(max_lag=Samples(0))
    long_talk = talk(*[2.0] * 5)
    async with desk(tmp_path, settings, engine=engine, can_wait=True) as at, running(at):
        at.capture.say(long_talk)
        await eventually(lambda: at.live.lag > 0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert at.live.intake.position < len(long_talk) / 2
        while at.live.intake.position < len(long_talk):
            engine.answer()
            await asyncio.sleep(0)
        assert at.capture.script.empty()


async def test_without_a_source_there_is_no_session(tmp_path: Path) -> None:
    async with desk(tmp_path, has_source=False) as at:
        await at.session.begin()
        await at.session.run()
        at.session.pause()
        assert len(at.host.sessions) == 0


async def leave_unfinished(directory: Path) -> None:
    """End a daemon while its microphone is being listened to."""
    async with desk(directory) as at, running(at):
        at.capture.say(np.zeros(16_000, np.float32))
        await eventually(at.capture.script.empty)
        await eventually(lambda: at.live.intake.position == 16_000)


async def test_after_a_short_restart_the_session_continues_behind_a_gap(tmp_path: Path) -> None:
    await leave_unfinished(tmp_path)
    async with desk(tmp_path) as at:
        [found] = recover(tmp_path / "journal.sqlite3", tmp_path / "spool")
        await at.session.resume(replace(found, last_written=time.time() - 10.0))
        before = at.live
        away = before.intake.position - 16_000
        assert to_samples(10.0) <= away < to_samples(60.0)
        async with running(at):
            assert at.live is before
            assert not before.intake.is_finishing


async def test_after_a_long_time_another_session_begins(tmp_path: Path) -> None:
    await leave_unfinished(tmp_path)
    async with desk(tmp_path, HostSettings(resume_s=5.0)) as at:
        [found] = recover(tmp_path / "journal.sqlite3", tmp_path / "spool")
        await at.session.resume(replace(found, last_written=time.time() - 10.0))
        before = at.live
        assert before.is_over.is_set()
        async with running(at):
            assert at.live is not before
            assert at.live.intake.position == 0


async def test_without_a_source_the_session_of_before_is_finished(tmp_path: Path) -> None:
    await leave_unfinished(tmp_path)
    async with desk(tmp_path, has_source=False) as at:
        [found] = recover(tmp_path / "journal.sqlite3", tmp_path / "spool")
        await at.session.resume(found)
        await at.session.begin()
        assert at.live.is_over.is_set()
