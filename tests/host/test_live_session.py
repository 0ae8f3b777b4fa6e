"""A live session without sockets: readers, journal, room, and dropped audio."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from streamasr.core.messages import Durable, End, Gap
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Align, Order, Rank, Recognise, Release, SpreadWords
from streamasr.core.outgoing import Reply
from streamasr.core.units import Samples, to_samples
from streamasr.engine.ports import Deliver
from streamasr.host.intake import Intake
from streamasr.host.live_session import LiveSession
from streamasr.host.outbox import OutboxEntry
from streamasr.host.reader import Reader
from streamasr.pipeline.stream import Beginning, StreamSettings
from tests.support.fake_daemon import SlowArchive
from tests.support.fakes import FakeEngine, PatientEngine, talk
from tests.support.waiting import eventually

TALK = talk(1.5, 2.0)


class Watcher:
    """Observer that keeps the measurements."""

    def __init__(self) -> None:
        self.n_received = 0
        self.stages: set[str] = set()
        self.partials: list[float] = []
        self.finals: list[float] = []

    def audio_received(self, n_samples: int) -> None:
        """See `Observer`."""
        self.n_received += n_samples

    def stage_worked(self, stage: str, seconds: float) -> None:
        """See `Observer`."""
        self.stages.add(stage)

    def partial_published(self, latency_s: float) -> None:
        """See `Observer`."""
        self.partials.append(latency_s)

    def final_published(self, latency_s: float) -> None:
        """See `Observer`."""
        self.finals.append(latency_s)


@asynccontextmanager
async def session(
    directory: Path,
    engine: FakeEngine | None = None,
    *,
    timeout_s: float = 1000.0,
    confirms: bool = True,
) -> AsyncIterator[tuple[LiveSession, SlowArchive, Watcher]]:
    """Run a session whose journal confirms messages at once or, without `confirms`, on request."""
    archive, watcher = SlowArchive(directory / "journal.sqlite3", directory / "spool"), Watcher()
    with archive:
        live = LiveSession(
            "name",
            SessionOptions(),
            recogniser=engine or FakeEngine(),
            settings=StreamSettings(),
            archive=archive,
            observer=watcher,
            beginning=Beginning(),
            journal_timeout_s=0.0 if confirms else timeout_s,
        )
        yield live, archive, watcher
        live.close()


def feed(live: LiveSession, samples: np.ndarray) -> None:
    for begin in range(0, len(samples), 1600):
        live.intake.feed(samples[begin : begin + 1600])


async def read(reader: Reader) -> list[OutboxEntry]:
    """Return everything that a reader gets."""
    entries = []
    while not (reader.is_closed and not reader.outbox):
        if (entry := reader.take()) is not None:
            entries.append(entry)
        else:
            await reader.wait()
    return entries


async def test_audio_work_and_latencies_are_measured(tmp_path: Path) -> None:
    async with session(tmp_path) as (live, _, watcher):
        feed(live, TALK)
        live.intake.finish()
        await live.is_over.wait()
        assert watcher.n_received == len(TALK)
        assert watcher.stages == {"encode", "decode"}
        assert len(watcher.finals) == 2
        assert all(0 <= seconds < 60 for seconds in watcher.partials + watcher.finals)


async def test_a_final_is_ready_when_its_endpoint_is_decided(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with session(tmp_path, engine) as (live, _, watcher):
        for begin in range(0, len(TALK), 480):
            n_finals = len(watcher.finals)
            live.intake.feed(TALK[begin : begin + 480])
            n_new = len(watcher.finals) - n_finals
            await asyncio.sleep(0)  # what was asked for is answered before the next frame
            assert len(watcher.finals) == n_finals + n_new, "a final came late"
        passes = [order for order in engine.orders if isinstance(order, Recognise)]
        assert {order.of.rank for order in passes} == {Rank.PARTIAL, Rank.SPECULATIVE}
        assert len(watcher.finals) == 2
        assert [o.segment for o in engine.orders if isinstance(o, Release)] == [1, 2]


async def test_a_speculative_pass_is_in_time_at_the_pace_of_speech(tmp_path: Path) -> None:
    engine = PatientEngine()
    async with session(tmp_path, engine) as (live, _, watcher):
        for begin in range(0, len(TALK), 1600):
            live.intake.feed(TALK[begin : begin + 1600])
            await asyncio.sleep(0)
            engine.answer()  # each stage takes the tenth of a second until the next chunk
        ranks = {order.of.rank for order in engine.orders if isinstance(order, Recognise)}
        assert ranks == {Rank.PARTIAL, Rank.SPECULATIVE}
        assert len(watcher.finals) == 2


async def test_arrivals_of_tiny_blocks_take_no_room(tmp_path: Path) -> None:
    async with session(tmp_path, PatientEngine()) as (live, _, __):
        for sample in TALK[:8000]:
            live.intake.feed(sample.reshape(1))
        assert len(live._latency.arrivals) <= 51


async def test_a_message_is_not_published_before_the_journal_has_it(tmp_path: Path) -> None:
    async with session(tmp_path, confirms=False) as (live, archive, _):
        reader = live.publisher.subscribe()
        feed(live, TALK)
        live.intake.finish()
        await eventually(lambda: len(archive.unconfirmed) == 5)
        assert live.publisher.seq == 0
        assert not live.is_settled
        for index in (4, 3, 2, 1):
            archive.confirm(index)
        await asyncio.sleep(0)
        assert live.publisher.seq == 0
        archive.confirm()
        entries = await read(reader)
        assert [e.seq for e in entries if isinstance(e.event, Durable)] == [1, 2, 3, 4, 5]
        assert live.is_settled


async def test_a_disk_that_hangs_delays_text_for_a_limited_time(tmp_path: Path) -> None:
    async with session(tmp_path, timeout_s=0.1, confirms=False) as (live, archive, _):
        feed(live, TALK)
        live.intake.finish()
        await live.is_over.wait()
        assert len(archive.unconfirmed) == 5


async def test_audio_without_room_becomes_a_gap(tmp_path: Path) -> None:
    engine, max_lag = PatientEngine(), to_samples(3.0)
    async with session(tmp_path, engine) as (live, _, __):
        reader = live.publisher.subscribe()
        for begin in range(0, len(TALK), 1600):
            live.intake.feed_or_drop(TALK[begin : begin + 1600], max_lag)
        dropped_from = live.intake.position
        assert dropped_from < len(TALK)
        while not live.intake.has_room(max_lag):
            engine.answer()
            await asyncio.sleep(0)
        live.intake.feed_or_drop(TALK[:1600], max_lag)
        live.intake.finish()
        while not live.is_over.is_set():
            engine.answer()
            await asyncio.sleep(0)
        events = [entry.event for entry in await read(reader)]
        [gap] = [m for m in events if isinstance(m, Gap)]
        assert gap.reason == "overload"
        assert gap.start == dropped_from
        end = events[-1]
        assert isinstance(end, End)
        assert end.duration == len(TALK) + 1600


@pytest.mark.parametrize("then", ["the end", "a hole", "a pause"])
async def test_a_gap_of_dropped_audio_comes_before_what_follows(tmp_path: Path, then: str) -> None:
    engine, max_lag = PatientEngine(), to_samples(0.5)
    async with session(tmp_path, engine) as (live, _, __):
        reader = live.publisher.subscribe()
        for begin in range(0, len(TALK), 1600):
            live.intake.feed_or_drop(TALK[begin : begin + 1600], max_lag)
        dropped_from = live.intake.position
        assert dropped_from < len(TALK)
        match then:
            case "a hole":
                live.intake.skip(Samples(1600), "suspend")
            case "a pause":
                live.intake.flush()
        live.intake.finish()
        while not live.is_over.is_set():
            engine.answer()
            await asyncio.sleep(0)
        events = [entry.event for entry in await read(reader)]
        gap = next(m for m in events if isinstance(m, Gap))
        assert (gap.start, gap.end) == (dropped_from, len(TALK))
        assert gap.reason == "overload"
        end = events[-1]
        assert isinstance(end, End)
        assert end.duration == len(TALK) + 1600 * (then == "a hole")


async def test_lost_messages_do_not_keep_a_client_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with session(tmp_path) as (live, _, __):
        feed(live, TALK)
        live.intake.finish()
        await live.is_over.wait()
        # This journal was never told that the session began, and keeps none of it.
        assert [text async for text in live.publisher.messages_since(0)] == []
    assert "messages after 0 are lost" in caplog.text


async def test_nothing_is_taken_after_the_end(tmp_path: Path) -> None:
    async with session(tmp_path) as (live, _, __):
        live.intake.finish()
        live.intake.finish()
        await live.is_over.wait()
        assert live.publisher.seq == 1


async def test_closing_a_reader_wakes_a_task_that_waits_for_room_in_it() -> None:
    reader = Reader()
    reader.post(Reply("pong"))
    waiting = asyncio.create_task(reader.wait_below(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    reader.close()
    await waiting


async def test_there_is_room_while_little_enough_waits(tmp_path: Path) -> None:
    engine = PatientEngine()
    async with session(tmp_path, engine) as (live, _, __):
        feed(live, TALK)
        lag = Samples(len(TALK) - 11_040 - to_samples(2.03))  # the first segment ends there
        assert not live.intake.has_room(lag)
        assert live.intake.has_room(Samples(lag + 1))
        assert live.lag_s == pytest.approx(2.03 + 2.54)
        waiting = asyncio.create_task(live.intake.wait_for_room(lag))
        await asyncio.sleep(0)
        assert not waiting.done()
        await engine.answer_until(waiting)


class WordlessEngine(FakeEngine):
    """Never finds any words."""

    def perform(self, order: Order, deliver: Deliver) -> None:
        if isinstance(order, Align):
            self.orders.append(order)
        else:
            super().perform(order, deliver)


@pytest.mark.parametrize(("pace", "is_spread"), [(1.0, True), (6.0, False)])
async def test_words_of_live_speech_that_cannot_keep_up_are_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pace: float, is_spread: bool
) -> None:
    monkeypatch.setattr(Intake, "pace", property(lambda _: pace))
    engine = WordlessEngine()
    async with session(tmp_path, engine) as (live, _, _):
        while live.intake.position < to_samples(60.0):
            assert not any(isinstance(order, SpreadWords) for order in engine.orders)
            feed(live, TALK)
            await eventually(lambda: not live.lag_s)
        feed(live, TALK)
        assert is_spread == any(isinstance(order, SpreadWords) for order in engine.orders)
