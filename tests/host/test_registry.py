"""Who has which session, and how long it is kept for those who lost it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from streamasr.core.options import SessionOptions
from streamasr.core.refusal import RefusalError
from streamasr.core.requested_options import RequestedOptions
from tests.support.errors import raises
from tests.support.fakes import talk
from tests.support.house import House, PatientEngine, Rooms, open_house
from tests.support.waiting import LoopClock, eventually, let_others_run


class Line:
    """A connection that is alive or not; once aborted it leaves when it likes."""

    def __init__(self, house: House, name: str, *, is_alive: bool) -> None:
        self.house, self.name = house, name
        self.lives = is_alive
        self.is_aborted = asyncio.Event()

    async def is_alive(self, timeout_s: float) -> bool:
        await asyncio.sleep(0)
        return self.lives

    def abort(self) -> None:
        self.is_aborted.set()

    def leave(self, *, is_given_up: bool = False, has_received_end: bool = False) -> None:
        self.house.sessions.detach(
            self.name, self, is_given_up=is_given_up, has_received_end=has_received_end
        )


@asynccontextmanager
async def house_with_one(directory: Path, **rooms: float) -> AsyncIterator[tuple[House, str]]:
    async with open_house(directory, Rooms(**rooms)) as house:  # type: ignore[arg-type]
        yield house, house.begin(RequestedOptions()).name


async def test_a_living_connection_keeps_its_session(tmp_path: Path) -> None:
    async with house_with_one(tmp_path) as (house, name):
        await house.sessions.attach(name, Line(house, name, is_alive=True))
        with raises(RefusalError, "session_busy"):
            await house.sessions.attach(name, Line(house, name, is_alive=True))


async def test_a_dead_one_is_heard_to_its_end_before_the_next_one_begins(tmp_path: Path) -> None:
    async with house_with_one(tmp_path) as (house, name):
        old, new = (Line(house, name, is_alive=False) for _ in "12")
        await house.sessions.attach(name, old)
        attaching = asyncio.create_task(house.sessions.attach(name, new))
        await old.is_aborted.wait()
        await let_others_run()
        assert not attaching.done()
        old.leave()
        await attaching


async def test_of_two_that_want_the_place_of_a_dead_one_one_gets_it(tmp_path: Path) -> None:
    async with house_with_one(tmp_path) as (house, name):
        old = Line(house, name, is_alive=False)
        await house.sessions.attach(name, old)
        lines = [Line(house, name, is_alive=True) for _ in range(2)]
        attaching = [asyncio.create_task(house.sessions.attach(name, line)) for line in lines]
        await old.is_aborted.wait()
        old.leave()
        outcomes = await asyncio.gather(*attaching, return_exceptions=True)
        assert sum(isinstance(outcome, RefusalError) for outcome in outcomes) == 1


async def test_one_that_was_replaced_cannot_leave_for_its_successor(tmp_path: Path) -> None:
    async with house_with_one(tmp_path, resume_s=0.0) as (house, name):
        old, new = Line(house, name, is_alive=True), Line(house, name, is_alive=True)
        await house.sessions.attach(name, new)
        old.leave()
        await LoopClock().advance(1.0)
        assert not house.sessions.find(name).intake.is_finishing


async def test_a_session_that_nobody_takes_is_forgotten(tmp_path: Path) -> None:
    async with house_with_one(tmp_path, resume_s=0.01) as (house, name):
        await house.sessions.wait_gone(name)
        with raises(RefusalError, "unknown_session"):
            house.sessions.find(name)


async def test_it_waits_anew_for_each_time_that_it_was_left(tmp_path: Path) -> None:
    clock = LoopClock()
    async with house_with_one(tmp_path, resume_s=10.0) as (house, name):
        for _ in range(4):
            line = Line(house, name, is_alive=True)
            await house.sessions.attach(name, line)
            await clock.advance(6.0)
            line.leave()
            await clock.advance(6.0)
        assert not house.sessions.find(name).intake.is_finishing


async def test_an_end_is_kept_until_it_is_heard(tmp_path: Path) -> None:
    async with house_with_one(tmp_path) as (house, name):
        line = Line(house, name, is_alive=True)
        live = await house.sessions.attach(name, line)
        live.intake.finish()
        await live.is_over.wait()
        line.leave()
        await house.sessions.attach(name, line)
        line.leave(is_given_up=True, has_received_end=True)
        await house.sessions.wait_gone(name)
        assert not len(house.sessions)


async def test_the_daemons_own_session_is_kept_without_a_connection(tmp_path: Path) -> None:
    async with open_house(tmp_path, Rooms(resume_s=0.0)) as house:
        live = house.begin_own()
        await LoopClock().advance(1.0)
        assert not live.intake.is_finishing
        with raises(RefusalError, "session_busy"):
            await house.sessions.attach("microphone", Line(house, "", is_alive=True))
        live.intake.finish()
        await house.sessions.wait_gone("microphone")


async def test_one_that_was_left_unused_gives_way(tmp_path: Path) -> None:
    async with house_with_one(tmp_path, max_sessions=1) as (house, name):
        line = Line(house, name, is_alive=True)
        await house.sessions.attach(name, line)
        with raises(RefusalError, "overloaded"):
            house.begin(RequestedOptions())
        line.leave()
        house.sessions.find(name).intake.feed(np.zeros(160, np.float32))
        with raises(RefusalError, "overloaded"):
            house.begin(RequestedOptions())
    async with house_with_one(tmp_path / "other", max_sessions=1) as (house, name):
        await house.sessions.attach(name, line := Line(house, name, is_alive=True))
        line.leave()
        house.begin(RequestedOptions())
        await house.sessions.wait_gone(name)


async def test_those_that_were_left_on_purpose_give_way_the_oldest_first(tmp_path: Path) -> None:
    async with house_with_one(tmp_path, max_sessions=3) as (house, first):
        names = [first, *(house.begin(RequestedOptions()).name for _ in range(2))]
        lines = [Line(house, name, is_alive=True) for name in names]
        for line in lines:
            live = await house.sessions.attach(line.name, line)
            live.intake.feed(talk(1.0))
        broken, *left = lines
        broken.leave()
        for line in left:
            line.leave(is_given_up=True)
        assert {live.name for live in house.sessions} == set(names)  # nobody wants the room
        for line in left:
            live = house.sessions.find(line.name)
            new = house.begin(RequestedOptions()).name
            await house.sessions.attach(new, Line(house, new, is_alive=True))
            await house.sessions.wait_gone(line.name)
            assert live.is_over.is_set()
        with raises(RefusalError, "overloaded"):
            house.begin(RequestedOptions())
        house.sessions.find(broken.name)


async def test_one_that_is_over_and_unheard_makes_no_room_and_is_kept(tmp_path: Path) -> None:
    async with house_with_one(tmp_path, max_sessions=1) as (house, over):
        line = Line(house, over, is_alive=True)
        live = await house.sessions.attach(over, line)
        live.intake.feed(talk(1.0))
        line.leave(is_given_up=True)
        live.intake.finish()
        await live.is_over.wait()
        left = house.begin(RequestedOptions()).name
        line = Line(house, left, is_alive=True)
        (await house.sessions.attach(left, line)).intake.feed(talk(1.0))
        line.leave(is_given_up=True)
        house.begin(RequestedOptions())
        await house.sessions.wait_gone(left)
        assert house.sessions.find(over) is live


async def test_one_that_was_left_on_purpose_and_found_again_is_kept(tmp_path: Path) -> None:
    async with house_with_one(tmp_path, max_sessions=1) as (house, name):
        for is_given_up in (True, False):
            line = Line(house, name, is_alive=True)
            live = await house.sessions.attach(name, line)
            live.intake.feed(np.zeros(160, np.float32))
            line.leave(is_given_up=is_given_up)
        with raises(RefusalError, "overloaded"):
            house.begin(RequestedOptions())


async def test_those_that_go_on_after_a_restart_come_beyond_the_limit(tmp_path: Path) -> None:
    async with house_with_one(tmp_path, max_sessions=1) as (house, name):
        await house.sessions.attach(name, Line(house, name, is_alive=True))
        with raises(RefusalError, "overloaded"):
            house.sessions.open("other", SessionOptions())
        house.sessions.find(name).intake.finish()
        await house.sessions.find(name).is_over.wait()
        house.sessions.open("other", SessionOptions())  # what is over is not counted


async def test_finishing_lets_all_say_what_they_owe(tmp_path: Path) -> None:
    engine = PatientEngine()
    async with open_house(tmp_path, Rooms(engine=engine)) as house:
        lives = [house.begin(RequestedOptions()) for _ in range(3)]
        for live in lives:
            live.intake.feed(talk(1.0))
        house.sessions.finish_all()
        await engine.answer_until(asyncio.create_task(house.sessions.wait_all_over()))
        assert all(live.is_over.is_set() for live in lives)
        await eventually(lambda: all(live.is_settled for live in lives))
