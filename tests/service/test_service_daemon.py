"""The daemon under a service manager, whose place a test takes: real sockets, a real process."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamasr import client
from streamasr.audio.file import open_audio
from streamasr.protocols import v1
from tests.support.daemons import RunningDaemon
from tests.support.fakes import pcm
from tests.support.paths import CLIPS
from tests.support.supervisors import Ear, SupervisedDaemon, listening, listening_unix, url_of

CLIP = CLIPS / "espeak_1.flac"

WATCHDOG_S = 1.5

HANGING = """
import threading
from streamasr.cli.main import main
from streamasr.models.qwen3.decoder import Qwen3ASRDecoder
Qwen3ASRDecoder.step = lambda self, answers: threading.Event().wait()
main()
"""

PAUSED_AS_SOON_AS_IT_IS_FOUND = """
import os, signal
from streamasr.cli.main import main
from streamasr.storage.lock import Lock
enter = Lock.__enter__
def enter_and_be_found(self):
    enter(self)
    os.kill(os.getpid(), signal.SIGUSR1)
    return self
Lock.__enter__ = enter_and_be_found
main()
"""

SLOW = """
import time
from streamasr.cli.main import main
from streamasr.models.qwen3.decoder import Qwen3ASRDecoder
step = Qwen3ASRDecoder.step
def long_step(self, answers):
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        self._context.n_operations += 1
        time.sleep(0.01)
    Qwen3ASRDecoder.step = step
    return step(self, answers)
Qwen3ASRDecoder.step = long_step
main()
"""


def speech() -> bytes:
    with open_audio(CLIP) as file:
        return pcm(np.concatenate(list(file.blocks())))


async def speak(url: str) -> str:
    """Say everything; all that was recognised."""
    async with client.connect(url) as stream:
        await stream.send(speech())
        await stream.stop()
        events = [event async for event in stream]
    return " ".join(event.text for event in events if isinstance(event, v1.Final))


@pytest.fixture(params=["path", "abstract"])
def ear(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ear]:
    address = str(tmp_path / "notify")
    with Ear(f"@streamasr{address}" if request.param == "abstract" else address) as ear:
        yield ear


def test_the_service_manager_hears_how_the_daemon_is_from_its_start_to_its_end(
    tmp_path: Path, ear: Ear
) -> None:
    with SupervisedDaemon(tmp_path, ear=ear) as daemon:
        assert ear.hear() == {"READY": "1", "STATUS": "loading tiny"}
        assert ear.hear() == {"STATUS": "tiny is ready, 0 sessions"}
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        daemon.process.send_signal(signal.SIGHUP)
        reloading = ear.hear()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert reloading["RELOADING"] == "1"
        assert before <= int(reloading["MONOTONIC_USEC"]) <= after
        assert ear.hear() == {"READY": "1"}
        assert daemon.stop() == 0
        assert ear.hear()["STOPPING"] == "1"


def test_a_daemon_that_may_take_longer_to_stop_asks_for_the_time(tmp_path: Path) -> None:
    settings = "[server]\nstop_timeout_s = 600\n"
    with (
        Ear(str(tmp_path / "notify")) as ear,
        SupervisedDaemon(tmp_path, ear=ear, settings=settings) as daemon,
    ):
        ear.hear_until(STATUS="tiny is ready, 0 sessions")
        assert daemon.stop() == 0
        stopping = ear.hear()
        assert stopping["STOPPING"] == "1"
        assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 600e6


def test_whoever_finds_a_daemon_may_pause_it(tmp_path: Path) -> None:
    daemon = SupervisedDaemon(tmp_path)
    daemon.program = ["-c", PAUSED_AS_SOON_AS_IT_IS_FOUND]
    with daemon:
        assert "the microphone is closed" in daemon.all_log
        assert daemon.stop() == 0


def test_a_configuration_that_cannot_be_ends_the_reload_too(tmp_path: Path) -> None:
    with Ear(str(tmp_path / "notify")) as ear, SupervisedDaemon(tmp_path, ear=ear) as daemon:
        ear.hear_until(STATUS="tiny is ready, 0 sessions")
        daemon.config.write_text("[server]\nport = 'none'\n", "utf-8")
        daemon.process.send_signal(signal.SIGHUP)
        assert ear.hear()["RELOADING"] == "1"
        assert ear.hear() == {"READY": "1"}
        daemon.wait_for("stays as it was")


async def test_nobody_is_told_where_nobody_asked(tmp_path: Path) -> None:
    with SupervisedDaemon(tmp_path) as daemon:
        assert await speak(daemon.url)
        assert daemon.stop() == 0
    assert "service manager" not in daemon.all_log


def test_a_service_manager_that_is_gone_is_no_reason_to_stop(tmp_path: Path) -> None:
    with Ear(str(tmp_path / "notify")) as ear:
        gone = ear
    with SupervisedDaemon(tmp_path, "-v", ear=gone) as daemon:
        daemon.wait_for("is loaded")
        assert daemon.stop() == 0
    assert daemon.all_log.count("the service manager cannot be told") == 1


# The watchdog.


async def test_a_decoder_that_hangs_is_noticed_and_its_session_goes_on_after_the_restart(
    tmp_path: Path,
) -> None:
    with Ear(str(tmp_path / "notify")) as ear:
        daemon = SupervisedDaemon(tmp_path, ear=ear, watchdog_s=WATCHDOG_S)
        daemon.program = ["-X", "faulthandler", "-c", HANGING]

        async def story() -> str:
            async with client.connect(daemon.url) as stream:
                speaking = asyncio.create_task(send_all(stream))
                await asyncio.to_thread(until_silent, ear)
                daemon.wait_for("the decoder stands still")
                assert daemon.bite() == -signal.SIGABRT
                daemon.program = ["-m", "streamasr"]
                await asyncio.to_thread(daemon.start)
                await speaking
                events = [event async for event in stream]
                return " ".join(event.text for event in events if isinstance(event, v1.Final))

        with daemon:
            heard = await story()
            assert "Current thread" in daemon.all_log  # where it hung, for the journal
            assert heard == await speak(daemon.url)


async def test_idle_and_at_work_the_watchdog_is_told_in_time(tmp_path: Path) -> None:
    with (
        Ear(str(tmp_path / "notify")) as ear,
        SupervisedDaemon(tmp_path, ear=ear, watchdog_s=WATCHDOG_S) as daemon,
    ):
        ear.hear_until(STATUS="tiny is ready, 0 sessions")
        ear.hear_until(WATCHDOG="1")
        assert await speak(daemon.url)
        ear.hear_until(WATCHDOG="1")
        assert daemon.stop() == 0
    assert "stands still" not in daemon.all_log


async def test_a_batch_that_takes_longer_than_the_watchdog_waits_but_gets_on_is_no_trouble(
    tmp_path: Path,
) -> None:
    with Ear(str(tmp_path / "notify")) as ear:
        daemon = SupervisedDaemon(tmp_path, ear=ear, watchdog_s=WATCHDOG_S)
        daemon.program = ["-c", SLOW]
        with daemon:
            assert await speak(daemon.url)
            assert daemon.stop() == 0
    assert "stands still" not in daemon.all_log


async def test_an_encoder_that_hangs_and_is_replaced_is_no_matter_for_the_watchdog(
    tmp_path: Path,
) -> None:
    with Ear(str(tmp_path / "notify")) as ear:
        daemon = SupervisedDaemon(tmp_path, ear=ear, watchdog_s=WATCHDOG_S)

        async def story() -> str:
            encoder = daemon.children()["encoder"]
            os.kill(encoder, signal.SIGSTOP)
            speaking = asyncio.create_task(speak(daemon.url))
            await asyncio.to_thread(ear.hear_until, STATUS="tiny is ready, 1 session")
            for _ in range(4):  # twice the time after which the daemon would be ended
                await asyncio.to_thread(ear.hear_until, WATCHDOG="1")
            os.kill(encoder, signal.SIGKILL)
            return await speaking

        with daemon:
            daemon.wait_for("is loaded")
            assert await story() == await speak(daemon.url) != ""
            assert daemon.stop() == 0
    assert "stands still" not in daemon.all_log


async def send_all(stream: client.Stream) -> None:
    await stream.send(speech())
    await stream.stop()


def until_silent(ear: Ear) -> None:
    """Wait until the watchdog would end the daemon."""
    last = time.monotonic()
    while (left := last + WATCHDOG_S - time.monotonic()) > 0:
        try:
            if "WATCHDOG" in ear.hear(left):
                last = time.monotonic()
        except TimeoutError:
            return


# Sockets that are there before the daemon is.


async def test_who_connects_while_no_daemon_runs_is_served_by_the_next_one(
    tmp_path: Path,
) -> None:
    with listening() as opened:
        daemon = SupervisedDaemon(tmp_path, sockets=[opened])

        async def connect_before_it_runs() -> str:
            speaking = asyncio.create_task(speak(url_of(opened)))
            await asyncio.to_thread(daemon.start)
            return await speaking

        with daemon:
            heard = await speak(daemon.url)
            assert daemon.stop() == 0
            assert await connect_before_it_runs() == heard != ""


async def test_a_unix_socket_stays_when_the_daemon_stops(tmp_path: Path) -> None:
    path = tmp_path / "streamasr.socket"
    with listening_unix(path) as opened:
        with SupervisedDaemon(tmp_path, sockets=[opened]) as daemon:
            assert await speak(daemon.url)
            assert daemon.stop() == 0
        with socket.socket(socket.AF_UNIX) as late:
            late.connect(str(path))


async def test_of_several_sockets_the_one_with_our_name_is_taken(tmp_path: Path) -> None:
    with listening() as opened, listening() as other:
        daemon = SupervisedDaemon(tmp_path, sockets=[opened, other], names="streamasr:metrics")
        with daemon:
            assert await speak(daemon.url)


def test_children_have_neither_the_socket_nor_what_is_said_of_it(tmp_path: Path) -> None:
    with Ear(str(tmp_path / "notify")) as ear, listening() as opened:
        daemon = SupervisedDaemon(tmp_path, "-v", ear=ear, watchdog_s=60, sockets=[opened])
        with daemon:
            ear.hear_until(STATUS="tiny is ready, 0 sessions")
            [encoder] = [pid for name, pid in daemon.children().items() if name == "encoder"]
            inherited = Path(f"/proc/{encoder}/environ").read_bytes()
            assert not [name for name in (b"LISTEN", b"NOTIFY", b"WATCHDOG") if name in inherited]
            inode = f"socket:[{Path(f'/proc/self/fd/{opened.fileno()}').stat().st_ino}]"
            assert inode in open_files(daemon.process.pid)
            assert inode not in open_files(encoder)


def open_files(process: int) -> list[str]:
    return [str(link.readlink()) for link in Path(f"/proc/{process}/fd").iterdir()]


def test_other_machines_are_not_let_in_without_a_token(tmp_path: Path) -> None:
    with listening("0.0.0.0") as opened:
        daemon = SupervisedDaemon(tmp_path, sockets=[opened])
        assert refusal(daemon) == (
            "streamasr: other machines could connect to '0.0.0.0', the socket that the service "
            "manager opened: set server.token_file, or ListenStream=127.0.0.1:8765.\n"
        )


def test_a_token_can_be_changed_but_not_taken_away_while_other_machines_could_connect(
    tmp_path: Path,
) -> None:
    token = tmp_path / "token"
    token.write_text("open sesame".replace(" ", "-"))
    token.chmod(0o600)
    with listening("0.0.0.0") as opened:
        daemon = SupervisedDaemon(tmp_path, sockets=[opened])
        settings = daemon.config.read_text("utf-8")
        daemon.config.write_text(f'{settings}[server]\ntoken_file = "{token}"\n', "utf-8")
        with daemon:
            daemon.wait_for("is loaded")
            daemon.config.write_text(settings, "utf-8")
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_for("stays as it was: other machines could connect")


def test_a_socket_that_takes_no_connections_is_refused(tmp_path: Path) -> None:
    with socket.socket() as unused:
        sentence = refusal(SupervisedDaemon(tmp_path, sockets=[unused]))
        assert "takes no connections: it needs ListenStream= and Accept=no." in sentence


def refusal(daemon: RunningDaemon) -> str:
    """What a daemon says that cannot be configured so."""
    process = daemon.spawn(daemon.command, dict(os.environ))
    _, said = process.communicate(timeout=100)
    assert process.returncode == 78
    return "".join(line for line in said.splitlines(True) if "tiny" not in line)
