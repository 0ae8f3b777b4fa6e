"""A daemon that is killed at any moment: sessions continue in its successor without a trace."""

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
from tests.support.fake_daemon import (
    Client,
    DaemonOptions,
    FakeDaemon,
    Json,
    durable,
    exact,
    in_time_order,
    recognise,
    running_daemon,
)
from tests.support.fakes import FakeEngine, PatientEngine, talk
from tests.support.waiting import eventually

TALK = exact(talk(1.5, 0.7, 1.0, 1.2))
"""Four segments, shorter than the ten seconds of settled audio that the spool keeps."""

EXPECTED = in_time_order(recognise(TALK))


async def copy_files(daemon: FakeDaemon, name: str, copy: Path) -> None:
    """Copy the files, as a kill would leave them when all audio so far is written."""
    await asyncio.wrap_future(daemon.store.read_messages(name, 0, 1))  # in turn after that audio
    while not copy.exists():
        try:
            shutil.copytree(daemon.directory, copy)
        except shutil.Error:  # a file of the database was deleted meanwhile
            shutil.rmtree(copy)


async def send_and_kill(
    directory: Path,
    copy: Path,
    samples: Float32Array,
    session: Json,
    engine: FakeEngine | None = None,
) -> tuple[Json, list[Json]]:
    """Send the audio that a session lacks, and kill the daemon.

    Returns:
        The fields to resume the session, and the durable messages that its client has received.
    """
    async with (
        running_daemon(directory, DaemonOptions(engine=engine)) as daemon,
        Client.start(daemon, **session) as client,
    ):
        position = client.ready["next_sample"]
        await client.send_audio(samples[position:])
        await client.send_message("ping")
        await client.receive("pong")
        await copy_files(daemon, client.session, copy)
        received = durable(client.received)
        since = received[-1]["seq"] if received else session.get("since", 0)
        return {"session": client.session, "since": since}, received


async def receive_through_kills(root: Path, samples: Float32Array, kills: list[int]) -> list[Json]:
    """Return the messages of a client whose daemon is killed at some samples."""
    session: Json = {}
    received: list[Json] = []
    for number, cut in enumerate(kills):
        directory, copy = root / str(number), root / str(number + 1)
        session, messages = await send_and_kill(directory, copy, samples[:cut], session)
        received += messages
    async with (
        running_daemon(root / str(len(kills))) as daemon,
        Client.start(daemon, **session) as client,
    ):
        assert client.ready["next_sample"] <= kills[-1]
        await client.send_audio(samples[client.ready["next_sample"] :])
        return received + durable(await client.stop())


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, len(TALK)), min_size=1, max_size=3).map(sorted))
async def test_kills_at_any_moments_leave_no_trace(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    root = tmp_path_factory.mktemp("daemons")
    assert in_time_order(await receive_through_kills(root, TALK, cuts)) == EXPECTED


async def test_after_a_long_time_borders_may_move_a_little(tmp_path: Path) -> None:
    """The voice detector remembers more audio than the spool keeps."""
    talk_of_half_a_minute = exact(talk(1.5, 0.7, 2.0, 1.0, 3.0, 0.6, 1.2, 2.2, 0.9, 1.7, 1.4, 2.5))
    received = await receive_through_kills(tmp_path, talk_of_half_a_minute, [320, 300_000, 363_360])
    finals = [m for m in in_time_order(received) if m["type"] == "final"]
    expected = [m for m in recognise(talk_of_half_a_minute) if m["type"] == "final"]
    for final, other in zip(finals, expected, strict=True):
        assert final["segment"] == other["segment"]
        assert final["start"] == pytest.approx(other["start"], abs=0.1)
        assert final["end"] == pytest.approx(other["end"], abs=0.1)


async def test_audio_that_was_not_recognised_is_recognised_later(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    session, received = await send_and_kill(old, new, TALK[:60_000], {}, PatientEngine())
    assert not received
    async with running_daemon(new) as daemon, Client.start(daemon, **session) as client:
        assert client.ready["next_sample"] == 60_000
        await client.send_audio(TALK[client.ready["next_sample"] :])
        assert in_time_order(await client.stop()) == EXPECTED


async def test_an_end_that_was_not_received_is_kept_for_its_client(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    async with running_daemon(old) as daemon, Client.start(daemon) as client:
        await client.send_audio(TALK)
        await client.send_message("stop")
        await daemon.sessions.find(client.session).is_over.wait()
        await copy_files(daemon, client.session, new)
    async with running_daemon(new) as daemon:
        async with Client.start(daemon, session=client.session, since=3) as again:
            messages = await again.receive_all()
            assert [m["seq"] for m in durable(messages)] == list(range(4, 10))
            assert messages[-2]["type"] == "end"
            assert again.connection.close_code == 1000
        await eventually(lambda: not len(daemon.sessions))
    async with running_daemon(new) as daemon:
        assert len(daemon.sessions) == 0


async def test_options_survive_too(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        options = {"language": "fr", "partials": False, "words": False}
        async with Client.start(daemon, **options) as client:
            await client.send_audio(TALK[:20_000])
            await client.send_message("ping")
            await client.receive("pong")
    async with running_daemon(tmp_path) as daemon:
        live = daemon.sessions.find(client.session)
        assert live.options == SessionOptions("French", "", partials=False, words=False)
        async with Client.start(daemon, session=client.session) as again:
            await again.send_audio(TALK[again.ready["next_sample"] :])
            kinds = {m["type"] for m in await again.stop()}
            assert kinds == {"ready", "speech", "final", "end"}


# Reading the files.


def record(name: str, options: SessionOptions = SessionOptions()) -> SessionRecord:  # noqa: B008 - frozen
    return SessionRecord(name, "client", 1.0, "fake", options)


def final(segment: int, start: int, end: int) -> Final:
    return Final(segment, "text", "English", Samples(start), Samples(end), "silence")


def ramp(start: int, end: int) -> Float32Array:
    """Samples that are tcopy own positions."""
    return np.arange(start, end, dtype=np.float32)


class Files:
    """A journal and a spool, written by the test."""

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


def test_a_session_continues_with_the_frame_in_which_the_last_final_ends(files: Files) -> None:
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


def test_audio_missing_in_the_spool_is_a_hole(files: Files) -> None:
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
def test_without_audio_a_session_continues_at_the_end_of_the_last_final(
    files: Files, has_spool: bool
) -> None:
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


def test_words_are_owed_only_to_sessions_with_words(files: Files) -> None:
    files.journal.begin(record("a", SessionOptions(words=False)))
    files.journal.append("a", 1, final(1, 1000, 5000))
    assert files.recover().wordless == []


def test_a_session_with_an_end_is_over(files: Files) -> None:
    files.journal.begin(record("a"))
    files.journal.append("a", 1, End(Samples(5), 0, 0))
    assert files.recover().is_over


def test_audio_of_unknown_sessions_is_deleted(files: Files) -> None:
    for name in ("known", "unknown"):
        Spool(files.root / name, Samples(0)).append(ramp(0, 10))
    files.journal.begin(record("known"))
    files.recover()
    assert [path.name for path in files.root.iterdir()] == ["known"]


def test_a_session_without_readable_audio_is_recovered(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    files.journal.begin(record("a"))
    files.journal.append("a", 1, final(1, 1000, 5000))
    files.root.mkdir()
    (files.root / "a").write_text("no directory")
    assert files.recover().beginning.position == 5000
    assert "its audio cannot be read" in caplog.text


def test_without_a_journal_there_is_nothing_to_recover(tmp_path: Path) -> None:
    assert recover(tmp_path / "journal.sqlite3", tmp_path / "spool") == []
    sqlite3.connect(tmp_path / "journal.sqlite3").close()
    assert recover(tmp_path / "journal.sqlite3", None) == []
