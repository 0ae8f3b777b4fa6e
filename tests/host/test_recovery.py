"""A daemon that dies at any moment: its successor goes on as if nothing had happened."""

import asyncio
import shutil
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.core.messages import End, Final, Gap
from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array, Samples
from streamasr.host.recovery import Recovered, recover
from streamasr.segmentation.chunker import FRAME
from streamasr.storage.journal import Journal
from streamasr.storage.records import SessionRecord
from streamasr.storage.spool import Spool
from tests.support.fakes import FakeEngine, talk
from tests.support.house import (
    Client,
    House,
    Json,
    PatientEngine,
    Rooms,
    durable,
    exact,
    in_time_order,
    open_house,
    recognise,
)
from tests.support.waiting import eventually

TALK = exact(talk(1.5, 0.7, 1.0, 1.2))
"""Four segments in less than the ten seconds that a successor can still hear."""

EXPECTED = in_time_order(recognise(TALK))


async def die(house: House, name: str, heir: Path) -> None:
    """Copy what is on the disk, as a death would leave it when all audio so far is there."""
    await asyncio.wrap_future(house.store.read_messages(name, 0, 1))  # in turn after that audio
    while not heir.exists():
        try:
            shutil.copytree(house.directory, heir)
        except shutil.Error:  # a file of the database went meanwhile
            shutil.rmtree(heir)


async def live_and_die(
    directory: Path,
    heir: Path,
    samples: Float32Array,
    session: Json,
    engine: FakeEngine | None = None,
) -> tuple[Json, list[Json]]:
    """Let a client say what it has not said yet, and the daemon die then.

    Returns:
        How to come back, and the lasting messages that the client has heard.
    """
    async with (
        open_house(directory, Rooms(engine=engine)) as house,
        Client.start(house, **session) as client,
    ):
        position = client.ready["next_sample"]
        await client.send(samples[position:])
        await client.say("ping")
        await client.hear("pong")
        await die(house, client.session, heir)
        heard = durable(client.heard)
        since = heard[-1]["seq"] if heard else session.get("since", 0)
        return {"session": client.session, "since": since}, heard


async def hear_through_deaths(root: Path, samples: Float32Array, deaths: list[int]) -> list[Json]:
    """What a client hears in all whose daemon dies at some samples."""
    session: Json = {}
    heard: list[Json] = []
    for number, cut in enumerate(deaths):
        directory, heir = root / str(number), root / str(number + 1)
        session, messages = await live_and_die(directory, heir, samples[:cut], session)
        heard += messages
    async with (
        open_house(root / str(len(deaths))) as house,
        Client.start(house, **session) as client,
    ):
        assert client.ready["next_sample"] <= deaths[-1]
        await client.send(samples[client.ready["next_sample"] :])
        return heard + durable(await client.stop())


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, len(TALK)), min_size=1, max_size=3).map(sorted))
async def test_deaths_at_any_moments_leave_no_trace(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    root = tmp_path_factory.mktemp("daemons")
    assert in_time_order(await hear_through_deaths(root, TALK, cuts)) == EXPECTED


async def test_after_a_long_time_borders_may_move_a_little(tmp_path: Path) -> None:
    """The voice detector remembers more than is kept for its successor."""
    talk_of_half_a_minute = exact(talk(1.5, 0.7, 2.0, 1.0, 3.0, 0.6, 1.2, 2.2, 0.9, 1.7, 1.4, 2.5))
    heard = await hear_through_deaths(tmp_path, talk_of_half_a_minute, [320, 300_000, 363_360])
    finals = [m for m in in_time_order(heard) if m["type"] == "final"]
    expected = [m for m in recognise(talk_of_half_a_minute) if m["type"] == "final"]
    for final, other in zip(finals, expected, strict=True):
        assert final["segment"] == other["segment"]
        assert final["start"] == pytest.approx(other["start"], abs=0.1)
        assert final["end"] == pytest.approx(other["end"], abs=0.1)


async def test_what_was_not_recognised_yet_is_recognised_later(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    session, heard = await live_and_die(old, new, TALK[:60_000], {}, PatientEngine())
    assert not heard
    async with open_house(new) as house, Client.start(house, **session) as client:
        assert client.ready["next_sample"] == 60_000
        await client.send(TALK[client.ready["next_sample"] :])
        assert in_time_order(await client.stop()) == EXPECTED


async def test_an_end_that_was_not_heard_is_kept_for_its_client(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    async with open_house(old) as house, Client.start(house) as client:
        await client.send(TALK)
        await client.say("stop")
        await house.sessions.find(client.session).is_over.wait()
        await die(house, client.session, new)
    async with open_house(new) as house:
        async with Client.start(house, session=client.session, since=3) as again:
            messages = await again.hear_all()
            assert [m["seq"] for m in durable(messages)] == list(range(4, 10))
            assert messages[-2]["type"] == "end"
            assert again.connection.close_code == 1000
        await eventually(lambda: not len(house.sessions))
    async with open_house(new) as house:
        assert len(house.sessions) == 0


async def test_wishes_survive_too(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        wishes = {"language": "fr", "partials": False, "words": False}
        async with Client.start(house, **wishes) as client:
            await client.send(TALK[:20_000])
            await client.say("ping")
            await client.hear("pong")
    async with open_house(tmp_path) as house:
        live = house.sessions.find(client.session)
        assert live.options == SessionOptions("French", "", partials=False, words=False)
        async with Client.start(house, session=client.session) as again:
            await again.send(TALK[again.ready["next_sample"] :])
            kinds = {m["type"] for m in await again.stop()}
            assert kinds == {"ready", "speech", "final", "end"}


# From files to what they mean.


def record(name: str, wishes: SessionOptions = SessionOptions()) -> SessionRecord:  # noqa: B008 - frozen
    return SessionRecord(name, "client", 1.0, "fake", wishes)


def final(segment: int, start: int, end: int) -> Final:
    return Final(segment, "text", "English", Samples(start), Samples(end), "silence")


def ramp(start: int, end: int) -> Float32Array:
    """Samples that tell their position."""
    return np.arange(start, end, dtype=np.float32)


class Files:
    """A journal and a spool, written by hand."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "journal.sqlite3"
        self.root = directory / "spool"
        self.journal = Journal(self.path)

    def recover(self) -> Recovered:
        self.journal.close()
        [found] = recover(self.path, self.root)
        return found


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_it_goes_on_with_the_frame_that_the_last_final_ends_in(files: Files) -> None:
    files.journal.begin(record("a"))
    files.journal.append("a", 1, final(1, 1000, 10 * FRAME + 7))
    spool = Spool(files.root / "a", Samples(0))
    spool.append(ramp(0, 20_000))
    found = files.recover()
    assert found.beginning.position == 10 * FRAME
    assert found.beginning.border == 10 * FRAME + 7
    assert found.beginning.n_segments == 1
    assert (found.beginning.published.seq, found.beginning.published.segments) == (1, 1)
    np.testing.assert_array_equal(found.warm_up, ramp(0, 10 * FRAME))
    [(start, samples)] = found.audio
    assert start == 10 * FRAME
    np.testing.assert_array_equal(samples, ramp(10 * FRAME, 20_000))
    [(wordless, samples)] = found.wordless
    assert wordless.segment == 1
    np.testing.assert_array_equal(samples, ramp(1000, 10 * FRAME + 7))
    assert found.last_written


def test_what_the_spool_lacks_is_a_hole(files: Files) -> None:
    files.journal.begin(record("a"))
    files.journal.append("a", 1, Gap(Samples(0), Samples(4800), "lost"))
    spool = Spool(files.root / "a", Samples(4800))
    spool.append(ramp(4800, 8000))
    spool.skip(1000)
    spool.append(ramp(9000, 9100))
    found = files.recover()
    assert found.beginning.position == 4800
    assert [(start, len(samples)) for start, samples in found.audio] == [(4800, 3200), (9000, 100)]
    assert len(found.warm_up) == 0


@pytest.mark.parametrize("has_spool", [True, False])
def test_without_audio_it_goes_on_where_the_last_final_ends(files: Files, has_spool: bool) -> None:
    files.journal.begin(record("a"))
    files.journal.append("a", 1, final(1, 1000, 5000))
    files.journal.close()
    [found] = recover(files.path, files.root if has_spool else None)
    assert (found.beginning.position, found.beginning.border) == (5000, 5000)
    assert found.audio == []
    assert found.last_written == pytest.approx(time.time(), abs=600)
    [(_, samples)] = found.wordless
    assert not samples.any()
    assert len(samples) == 4000


def test_words_that_nobody_wants_are_not_owed(files: Files) -> None:
    files.journal.begin(record("a", SessionOptions(words=False)))
    files.journal.append("a", 1, final(1, 1000, 5000))
    assert files.recover().wordless == []


def test_a_session_that_said_its_end_is_over(files: Files) -> None:
    files.journal.begin(record("a"))
    files.journal.append("a", 1, End(Samples(5), 0, 0))
    assert files.recover().is_over


def test_audio_of_sessions_that_nobody_knows_is_deleted(files: Files) -> None:
    for name in ("known", "unknown"):
        Spool(files.root / name, Samples(0)).append(ramp(0, 10))
    files.journal.begin(record("known"))
    files.recover()
    assert [path.name for path in files.root.iterdir()] == ["known"]


def test_audio_that_cannot_be_read_costs_only_the_audio(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    files.journal.begin(record("a"))
    files.journal.append("a", 1, final(1, 1000, 5000))
    files.root.mkdir()
    (files.root / "a").write_text("no directory")
    assert files.recover().beginning.position == 5000
    assert "its audio cannot be read" in caplog.text


def test_where_nothing_was_written_nothing_goes_on(tmp_path: Path) -> None:
    assert recover(tmp_path / "journal.sqlite3", tmp_path / "spool") == []
    sqlite3.connect(tmp_path / "journal.sqlite3").close()
    assert recover(tmp_path / "journal.sqlite3", None) == []
