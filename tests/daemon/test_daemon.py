"""The daemon for its clients and its operator: a real process with an embedded model."""

import asyncio
import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from streamasr import client
from streamasr.bench.latency import Server, speak
from streamasr.bench.recording import Recording
from streamasr.bench.speech import load_speech
from streamasr.core.errors import ProtocolError
from streamasr.core.messages import Final, Words
from streamasr.core.units import SAMPLE_RATE, Float32Array, to_seconds
from streamasr.models.bundle import open_bundle
from streamasr.protocols import v1
from tests.support.daemons import RunningDaemon
from tests.support.embedded import EmbeddedModel, assert_spoken
from tests.support.fakes import FakeSource, pcm
from tests.support.goldens import TINY_CLIPS
from tests.support.live_sessions import check_guarantees, dictate, load_clip
from tests.support.paths import CLIPS

LOST_WHILE_RESUMING = """
from streamasr.cli.main import main
from streamasr.daemon.daemon import Daemon
from streamasr.core.errors import WorkerError
async def lose(self, recovered):
    self._engine.encoder._process._give_up(WorkerError("its files are gone"))
Daemon._resume_sessions = lose
main()
"""


@pytest.fixture(scope="module")
def speech() -> Float32Array:
    """Half a minute of speech with pauses, as a 16-bit client sends it."""
    pause = np.zeros(SAMPLE_RATE, np.float32)
    names = ["espeak_1.flac", "espeak_2.flac", "espeak_joined.flac", "mandarin.flac", "flite.flac"]
    samples = np.concatenate([part for name in names for part in (load_clip(name), pause)])
    return (np.frombuffer(pcm(samples), "<i2") / 32768).astype(np.float32)


Expected = list[tuple[float, float, str, str | None]]


@pytest.fixture(scope="module")
def expected(speech: Float32Array, embedded: EmbeddedModel) -> Expected:
    """Segments that `transcribe` finds in it."""
    messages = embedded.transcribe(FakeSource(speech))
    words = {m.segment: m for m in messages if isinstance(m, Words)}
    finals = [m for m in messages if isinstance(m, Final)]
    assert len(finals) >= 5
    assert set(words) == {final.segment for final in finals}
    assert {m.method for m in words.values()} == {embedded.method}
    return [(to_seconds(f.start), to_seconds(f.end), f.text, f.language) for f in finals]


def outcome(events: list[client.Event]) -> Expected:
    finals = [event for event in events if isinstance(event, v1.Final)]
    return [(final.start, final.end, final.text, final.language) for final in finals]


def check_outcome(events: list[client.Event], expected: Expected, model: EmbeddedModel) -> None:
    """Check that no segment and no word is lost or changed.

    Text that was committed during speech stays; a model whose answers cannot be forced to begin
    with it may read a word differently in the end.
    """
    found = outcome(events)
    if model.can_force:
        assert found == expected
        return
    assert [segment[:2] for segment in found] == [segment[:2] for segment in expected]
    assert_spoken([segment[2] for segment in found], [segment[2] for segment in expected])


async def test_a_socket_gives_the_same_text_as_a_file(
    tmp_path: Path, embedded: EmbeddedModel, speech: Float32Array, expected: Expected
) -> None:
    with RunningDaemon(tmp_path, "--no-mic", model=embedded.name) as daemon:
        events = await dictate(daemon.url, speech)
        check_outcome(events, expected, embedded)
        check_guarantees(events)
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.all_log


async def test_a_client_learns_which_of_its_options_have_no_effect(
    tmp_path: Path, embedded: EmbeddedModel
) -> None:
    async def sentences(url: str, **options: Any) -> list[str]:
        async with client.connect(url, **options) as stream:
            await stream.configure(hotwords=("Riesling",))
            await stream.stop()
            events = [event async for event in stream]
        warnings = [event for event in events if isinstance(event, v1.Warning)]
        assert {warning.code for warning in warnings} <= {"option_ignored"}
        return [warning.message for warning in warnings]

    with RunningDaemon(tmp_path, "--no-mic", model=embedded.name) as daemon:
        silent, told = await sentences(daemon.url), await sentences(daemon.url, context="wine")
    if embedded.has_decoder:
        assert (silent, told) == ([], [])
    else:
        name = embedded.name
        assert silent == [f"{name} takes no hotwords; what is given has no effect."]
        assert told == [
            f"{name} takes no context; what is given has no effect.",
            f"{name} takes no context and no hotwords; what is given has no effect.",
        ]


async def test_simultaneous_sessions_get_the_same_text_as_single_ones(
    tmp_path: Path, embedded: EmbeddedModel, speech: Float32Array, expected: Expected
) -> None:
    async def all_at_once(url: str) -> list[list[client.Event]]:
        return await asyncio.gather(*(dictate(url, speech) for _ in range(3)))

    with RunningDaemon(tmp_path, "--no-mic", model=embedded.name) as daemon:
        for events in await all_at_once(daemon.url):
            check_outcome(events, expected, embedded)
            check_guarantees(events)


async def test_no_word_is_lost_when_children_are_killed(
    tmp_path: Path, embedded: EmbeddedModel, speech: Float32Array, expected: Expected
) -> None:
    rng = random.Random(1)
    with RunningDaemon(tmp_path, "--no-mic", model=embedded.name) as daemon:
        killed: list[int] = []

        def kill(event: client.Event) -> None:
            if len(killed) >= 10 or not isinstance(event, v1.Speech | v1.Partial | v1.Final):
                return
            number = rng.choice(list(daemon.children().values()))
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                return  # its successor is not ready yet
            killed.append(number)

        events = await dictate(daemon.url, speech, kill, speed=5)
        assert len(set(killed)) >= 3
        assert {*daemon.children()} == {*embedded.children}
        check_outcome(events, expected, embedded)
        check_guarantees(events)
        assert daemon.stop() == 0


async def test_sessions_continue_after_the_daemon_is_killed(
    tmp_path: Path, embedded: EmbeddedModel, speech: Float32Array, expected: Expected
) -> None:
    with RunningDaemon(tmp_path, "--no-mic", model=embedded.name) as daemon:
        kills: list[client.Event] = []
        n_resumed = 0

        def kill(event: client.Event) -> None:
            nonlocal n_resumed
            n_resumed += isinstance(event, client.Resumed)
            wanted = (v1.Partial, v1.Final, v1.Final, v1.Words)
            has_stable_text = not isinstance(event, v1.Partial) or event.stable
            is_due = n_resumed >= len(kills) < 4  # not before the last kill was noticed
            if is_due and isinstance(event, wanted[len(kills)]) and has_stable_text:
                kills.append(event)
                daemon.kill()
                daemon.start()

        events = await dictate(daemon.url, speech, kill, speed=5)
        assert len(kills) == 4
        assert n_resumed >= 3  # the last kill may come when everything was received
        check_outcome(events, expected, embedded)
        check_guarantees(events)


class Proxy:
    """A network that breaks: passes bytes on until `drop` closes its connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self.n_drops = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.drop()

    def drop(self) -> None:
        self.n_drops += 1
        for writer in self._writers:
            writer.transport.abort()
        self._writers = []

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, there_writer]
        await asyncio.gather(
            self._copy(reader, there_writer),
            self._copy(there_reader, writer),
            return_exceptions=True,
        )

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
        writer.close()


async def test_no_word_is_lost_when_a_connection_breaks_ten_times(
    tmp_path: Path, embedded: EmbeddedModel, speech: Float32Array, expected: Expected
) -> None:
    rng = random.Random(2)

    async def dictate_through_a_bad_network(port: int) -> tuple[list[client.Event], int]:
        async with Proxy(port) as proxy:
            n_until_drop = 2

            def drop(_: client.Event) -> None:
                nonlocal n_until_drop
                n_until_drop -= 1
                if n_until_drop == 0 and proxy.n_drops < 10:
                    proxy.drop()
                    n_until_drop = rng.randint(1, 4)

            events = await dictate(proxy.url, speech, drop, speed=5)
            return events, proxy.n_drops

    with RunningDaemon(tmp_path, "--no-mic", model=embedded.name) as daemon:
        events, n_drops = await dictate_through_a_bad_network(daemon.port)
        assert n_drops == 10
        check_outcome(events, expected, embedded)
        check_guarantees(events)


async def test_any_number_of_clients_reads_a_file_played_as_a_microphone(
    tmp_path: Path, embedded: EmbeddedModel
) -> None:
    clip = CLIPS / "espeak_joined.flac"

    async def listen(url: str) -> list[client.Event]:
        async with asyncio.timeout(120):
            return [event async for event in client.listen(url, since=0)]

    async def listen_twice(url: str) -> tuple[list[client.Event], list[client.Event]]:
        return await asyncio.gather(listen(url), listen(url))

    options = ("--input", str(clip), "--speed", "4")
    with RunningDaemon(tmp_path, *options, model=embedded.name) as daemon:
        one, two = await listen_twice(daemon.url)
        assert outcome(one) == outcome(two) != []
        assert any(isinstance(event, v1.Partial) for event in one), "partials came only at the end"
        for events in (one, two):
            check_guarantees(events)
            assert isinstance(events[-1], v1.End)
        assert daemon.stop() == 0


async def test_stopping_finishes_the_audio_received_so_far(
    tmp_path: Path, embedded: EmbeddedModel, speech: Float32Array
) -> None:
    async def dictate_without_end(daemon: RunningDaemon) -> list[client.Event]:
        async with asyncio.timeout(120), client.connect(daemon.url) as stream:
            events: list[client.Event] = []
            data = pcm(speech)
            await stream.send(data[: 2 * SAMPLE_RATE * 3])
            async for event in stream:
                if isinstance(event, v1.Speech):
                    daemon.process.send_signal(signal.SIGTERM)
                events.append(event)
            return events

    with RunningDaemon(tmp_path, "--no-mic", model=embedded.name) as daemon:
        events = await dictate_without_end(daemon)
        assert isinstance(events[-1], v1.End)
        assert any(isinstance(event, v1.Final) for event in events)
        check_guarantees(events)
        assert daemon.process.wait(60) == 0


def test_the_daemon_can_be_paused_and_stopped_at_any_moment(tmp_path: Path) -> None:
    options = ["--input", str(CLIPS / "espeak_joined.flac")]
    for name, wait in (("loading", None), ("listening", "is open")):
        directory = tmp_path / name
        directory.mkdir()
        with RunningDaemon(directory, *options) as daemon:
            if wait:
                daemon.wait_for(wait)
            daemon.process.send_signal(signal.SIGUSR1)
            daemon.wait_for("the microphone is closed")
            daemon.process.send_signal(signal.SIGUSR2)
            daemon.wait_for("the microphone is open again")
            daemon.process.send_signal(signal.SIGUSR1)
            assert daemon.stop() == 0
            assert "Traceback" not in daemon.all_log
            assert "the audio source has ended" not in daemon.all_log


async def test_without_history_no_text_and_no_audio_is_left(
    tmp_path: Path, speech: Float32Array
) -> None:
    async def leave_after_the_first_final(url: str) -> list[client.Event]:
        async with asyncio.timeout(120):
            stream = client.connect(url)
            async with stream:
                await stream.send(pcm(speech[: 8 * SAMPLE_RATE]))
                events = []
                async for event in stream:
                    events.append(event)
                    if isinstance(event, v1.Words):
                        break
                await stream.close()
                return events

    settings = "history_days = 0"  # of the section [storage]
    with RunningDaemon(tmp_path, "--no-mic", settings=settings) as daemon:
        events = await leave_after_the_first_final(daemon.url)
        [final] = [event for event in events if isinstance(event, v1.Final)]
        assert daemon.stop() == 0
    left = [path for path in (tmp_path / "storage").rglob("*") if path.is_file()]
    assert not [path for path in left if path.suffix == ".f32"]
    assert not [path for path in left if final.text.encode() in path.read_bytes()]


async def test_much_audio_at_once_leaves_no_gap(tmp_path: Path) -> None:
    """The short version of `streamasr bench soak --pace 0 --sessions 3`."""

    async def speak_at_once(url: str) -> list[Recording]:
        speech = load_speech(sorted(TINY_CLIPS.glob("*.flac")), pause_s=1.0, seconds=60.0)
        return await asyncio.gather(*(speak(Server(url), speech, pace=0.0) for _ in range(3)))

    with RunningDaemon(tmp_path, "--no-mic") as daemon:
        recordings = await speak_at_once(daemon.url)
    for messages in ([told.message for told in one.received] for one in recordings):
        lasting = [m for m in messages if isinstance(m, v1.Final | v1.Words | v1.Gap | v1.End)]
        assert [message.seq for message in lasting] == list(range(1, len(lasting) + 1))
        assert not [message for message in messages if isinstance(message, v1.Gap)]
        for kind in (v1.Final, v1.Words):
            assert sum(isinstance(message, kind) for message in messages) >= 10


async def test_metrics_name_the_parts_that_a_model_has(
    tmp_path: Path, embedded: EmbeddedModel, speech: Float32Array
) -> None:
    with RunningDaemon(tmp_path, "--no-mic", model=embedded.name) as daemon:
        await dictate(daemon.url, speech[: 6 * SAMPLE_RATE])
        found = daemon.metrics()
    labels = [(name, *others) for name, *others in found]
    passes = {*embedded.stages} - {"align"}
    assert {other[0] for name, *other in labels if name == "streamasr_work_seconds_total"} <= passes
    assert found["streamasr_work_seconds_total", "encode"] > 0
    restarts = {other[0] for name, *other in labels if name == "streamasr_worker_restarts_total"}
    assert restarts == {*embedded.children}
    queues = {other[0] for name, *other in labels if name == "streamasr_queue_length"}
    assert queues == {*embedded.children, *(["decoder"] if embedded.has_decoder else [])}
    family = open_bundle(embedded.bundle).family.name
    assert found["streamasr_model_info", family, embedded.name] == 1


def test_a_second_daemon_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, "--no-mic") as daemon:
        second = RunningDaemon(tmp_path, "--no-mic")
        with pytest.raises(AssertionError, match="another daemon uses"), second:
            pass
        assert second.process.wait(60) == 78
        assert daemon.stop() == 0


class DaemonWithoutOptions(RunningDaemon):
    """Finds its settings by itself, in a home directory without any."""

    def spawn(self, command: list[str], environ: dict[str, str]) -> "subprocess.Popen[str]":
        self.config.unlink(missing_ok=True)
        where = command.index("--config")
        homes = {name: str(self.directory) for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME")}
        return super().spawn(command[:where] + command[where + 2 :], environ | homes)


def test_a_settings_file_written_after_the_start_is_found(tmp_path: Path) -> None:
    with DaemonWithoutOptions(tmp_path, "--no-mic") as daemon:
        daemon.wait_for("is loaded")
        written = tmp_path / "streamasr" / "config.toml"
        written.parent.mkdir(exist_ok=True)
        written.write_text("[server]\nmax_sessions = 1\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("applied new settings: server.max_sessions")
        assert daemon.stop() == 0


def test_an_engine_that_is_lost_while_sessions_are_resumed_ends_the_daemon(tmp_path: Path) -> None:
    daemon = RunningDaemon(tmp_path, "--no-mic")
    daemon.command[1:3] = ["-c", LOST_WHILE_RESUMING]
    with daemon:
        daemon.wait_for("the engine cannot be kept running")
        assert daemon.process.wait(60) == 1


async def test_new_settings_are_applied_without_a_restart(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, "--no-mic") as daemon:
        daemon.wait_for("is loaded")
        written = daemon.config.read_text("utf-8")
        daemon.config.write_text(
            written + '[server]\nmax_sessions = 1\nhost = "127.0.0.2"\n', encoding="utf-8"
        )
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("server.max_sessions")
        daemon.wait_for("server.host")
        daemon.config.write_text(written + "[server]\nmax_session = 1\n", encoding="utf-8")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("did you mean server.max_sessions?")

        async def open_two() -> None:
            async with client.connect(daemon.url), client.connect(daemon.url) as second:
                async for _ in second:
                    pass

        with pytest.raises(ProtocolError, match="session"):
            await asyncio.wait_for(open_two(), 60)
        assert daemon.stop() == 0
