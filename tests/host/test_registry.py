"""The sessions of a daemon: their owners, and how long they wait to be resumed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from streamasr.core.options import SessionOptions
from streamasr.core.refusal import RefusalError
from streamasr.core.requested_options import RequestedOptions
from tests.support.errors import raises
from tests.support.fake_daemon import DaemonOptions, FakeDaemon, running_daemon
from tests.support.fakes import PatientEngine, talk
from tests.support.waiting import LoopClock, eventually, let_others_run


class Line:
    """Connection that is alive or not; after `abort`, the test calls `leave`."""

    def __init__(self, daemon: FakeDaemon, name: str, *, is_alive: bool) -> None:
        self.daemon, self.name = daemon, name
        self.lives = is_alive
        self.is_aborted = asyncio.Event()

    async def is_alive(self, timeout_s: float) -> bool:
        await asyncio.sleep(0)
        return self.lives

    def abort(self) -> None:
        self.is_aborted.set()

    def leave(self, *, is_given_up: bool = False, has_received_end: bool = False) -> None:
        self.daemon.sessions.detach(
            self.name, self, is_given_up=is_given_up, has_received_end=has_received_end
        )


@asynccontextmanager
async def daemon_with_session(
    directory: Path, **options: float
) -> AsyncIterator[tuple[FakeDaemon, str]]:
    async with running_daemon(directory, DaemonOptions(**options)) as daemon:  # type: ignore[arg-type]
        yield daemon, daemon.host.begin(RequestedOptions()).name


async def test_a_living_connection_keeps_its_session(tmp_path: Path) -> None:
    async with daemon_with_session(tmp_path) as (daemon, name):
        await daemon.sessions.attach(name, Line(daemon, name, is_alive=True))
        with raises(RefusalError, "session_busy"):
            await daemon.sessions.attach(name, Line(daemon, name, is_alive=True))


async def test_a_dead_connection_is_read_to_its_end_before_it_is_replaced(
    tmp_path: Path,
) -> None:
    async with daemon_with_session(tmp_path) as (daemon, name):
        old, new = (Line(daemon, name, is_alive=False) for _ in "12")
        await daemon.sessions.attach(name, old)
        attaching = asyncio.create_task(daemon.sessions.attach(name, new))
        await old.is_aborted.wait()
        await let_others_run()
        assert not attaching.done()
        old.leave()
        await attaching


async def test_of_two_connections_one_replaces_a_dead_one(tmp_path: Path) -> None:
    async with daemon_with_session(tmp_path) as (daemon, name):
        old = Line(daemon, name, is_alive=False)
        await daemon.sessions.attach(name, old)
        lines = [Line(daemon, name, is_alive=True) for _ in range(2)]
        attaching = [asyncio.create_task(daemon.sessions.attach(name, line)) for line in lines]
        await old.is_aborted.wait()
        old.leave()
        outcomes = await asyncio.gather(*attaching, return_exceptions=True)
        assert sum(isinstance(outcome, RefusalError) for outcome in outcomes) == 1


async def test_a_replaced_connection_does_not_detach_its_successor(tmp_path: Path) -> None:
    async with daemon_with_session(tmp_path, resume_s=0.0) as (daemon, name):
        old, new = Line(daemon, name, is_alive=True), Line(daemon, name, is_alive=True)
        await daemon.sessions.attach(name, new)
        old.leave()
        await LoopClock().advance(1.0)
        assert not daemon.sessions.find(name).intake.is_finishing


async def test_a_session_that_is_never_attached_is_forgotten(tmp_path: Path) -> None:
    async with daemon_with_session(tmp_path, resume_s=0.01) as (daemon, name):
        await daemon.sessions.wait_gone(name)
        with raises(RefusalError, "unknown_session"):
            daemon.sessions.find(name)


async def test_a_session_waits_anew_after_each_connection(tmp_path: Path) -> None:
    clock = LoopClock()
    async with daemon_with_session(tmp_path, resume_s=10.0) as (daemon, name):
        for _ in range(4):
            line = Line(daemon, name, is_alive=True)
            await daemon.sessions.attach(name, line)
            await clock.advance(6.0)
            line.leave()
            await clock.advance(6.0)
        assert not daemon.sessions.find(name).intake.is_finishing


async def test_an_end_is_kept_until_it_was_received(tmp_path: Path) -> None:
    async with daemon_with_session(tmp_path) as (daemon, name):
        line = Line(daemon, name, is_alive=True)
        live = await daemon.sessions.attach(name, line)
        live.intake.finish()
        await live.is_over.wait()
        line.leave()
        await daemon.sessions.attach(name, line)
        line.leave(is_given_up=True, has_received_end=True)
        await daemon.sessions.wait_gone(name)
        assert not len(daemon.sessions)


async def test_the_daemons_own_session_is_kept_without_a_connection(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, DaemonOptions(resume_s=0.0)) as daemon:
        live = daemon.host.begin_own()
        await LoopClock().advance(1.0)
        assert not live.intake.is_finishing
        with raises(RefusalError, "session_busy"):
            await daemon.sessions.attach("microphone", Line(daemon, "", is_alive=True))
        live.intake.finish()
        await daemon.sessions.wait_gone("microphone")


async def test_a_session_without_audio_is_evicted(tmp_path: Path) -> None:
    async with daemon_with_session(tmp_path, max_sessions=1) as (daemon, name):
        line = Line(daemon, name, is_alive=True)
        await daemon.sessions.attach(name, line)
        with raises(RefusalError, "overloaded"):
            daemon.host.begin(RequestedOptions())
        line.leave()
        daemon.sessions.find(name).intake.feed(np.zeros(160, np.float32))
        with raises(RefusalError, "overloaded"):
            daemon.host.begin(RequestedOptions())
    async with daemon_with_session(tmp_path / "other", max_sessions=1) as (daemon, name):
        await daemon.sessions.attach(name, line := Line(daemon, name, is_alive=True))
        line.leave()
        daemon.host.begin(RequestedOptions())
        await daemon.sessions.wait_gone(name)


async def test_sessions_that_were_given_up_are_evicted_oldest_first(tmp_path: Path) -> None:
    async with daemon_with_session(tmp_path, max_sessions=3) as (daemon, first):
        names = [first, *(daemon.host.begin(RequestedOptions()).name for _ in range(2))]
        lines = [Line(daemon, name, is_alive=True) for name in names]
        for line in lines:
            live = await daemon.sessions.attach(line.name, line)
            live.intake.feed(talk(1.0))
        broken, *left = lines
        broken.leave()
        for line in left:
            line.leave(is_given_up=True)
        assert {live.name for live in daemon.sessions} == set(names)
        for line in left:
            live = daemon.sessions.find(line.name)
            new = daemon.host.begin(RequestedOptions()).name
            await daemon.sessions.attach(new, Line(daemon, new, is_alive=True))
            await daemon.sessions.wait_gone(line.name)
            assert live.is_over.is_set()
        with raises(RefusalError, "overloaded"):
            daemon.host.begin(RequestedOptions())
        daemon.sessions.find(broken.name)


async def test_a_session_whose_end_was_not_received_is_not_evicted(tmp_path: Path) -> None:
    async with daemon_with_session(tmp_path, max_sessions=1) as (daemon, over):
        line = Line(daemon, over, is_alive=True)
        live = await daemon.sessions.attach(over, line)
        live.intake.feed(talk(1.0))
        line.leave(is_given_up=True)
        live.intake.finish()
        await live.is_over.wait()
        left = daemon.host.begin(RequestedOptions()).name
        line = Line(daemon, left, is_alive=True)
        (await daemon.sessions.attach(left, line)).intake.feed(talk(1.0))
        line.leave(is_given_up=True)
        daemon.host.begin(RequestedOptions())
        await daemon.sessions.wait_gone(left)
        assert daemon.sessions.find(over) is live


async def test_a_session_that_was_given_up_and_resumed_is_kept(tmp_path: Path) -> None:
    async with daemon_with_session(tmp_path, max_sessions=1) as (daemon, name):
        for is_given_up in (True, False):
            line = Line(daemon, name, is_alive=True)
            live = await daemon.sessions.attach(name, line)
            live.intake.feed(np.zeros(160, np.float32))
            line.leave(is_given_up=is_given_up)
        with raises(RefusalError, "overloaded"):
            daemon.host.begin(RequestedOptions())


async def test_sessions_resumed_after_a_restart_are_not_limited(tmp_path: Path) -> None:
    async with daemon_with_session(tmp_path, max_sessions=1) as (daemon, name):
        await daemon.sessions.attach(name, Line(daemon, name, is_alive=True))
        with raises(RefusalError, "overloaded"):
            daemon.sessions.open("other", SessionOptions())
        daemon.sessions.find(name).intake.finish()
        await daemon.sessions.find(name).is_over.wait()
        daemon.sessions.open("other", SessionOptions())  # what is over is not counted


async def test_finish_all_publishes_what_is_owed(tmp_path: Path) -> None:
    engine = PatientEngine()
    async with running_daemon(tmp_path, DaemonOptions(engine=engine)) as daemon:
        lives = [daemon.host.begin(RequestedOptions()) for _ in range(3)]
        for live in lives:
            live.intake.feed(talk(1.0))
        daemon.sessions.finish_all()
        await engine.answer_until(asyncio.create_task(daemon.sessions.wait_all_over()))
        assert all(live.is_over.is_set() for live in lives)
        await eventually(lambda: all(live.is_settled for live in lives))
