"""The daemon as a process under a service manager that the test plays, with real sockets."""

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
from tests.support.embedded import EmbeddedModel
from tests.support.fakes import pcm
from tests.support.paths import CLIPS
from tests.support.supervisors import (
    ManagerSocket,
    SupervisedDaemon,
    listening,
    listening_unix,
    url_of,
)

CLIP = CLIPS / "espeak_1.flac"

WATCHDOG_S = 1.5

UNREVISED = '[live]\ncommit = "endpoint"\n'
"""Settings with which the text does not depend on the moments of its partials."""

HANGING = """
import threading
from streamasr.cli.main import main
from streamasr.models.qwen3.decoder import Qwen3ASRDecoder
Qwen3ASRDecoder.step = lambda self, answers: threading.Event().wait()
main()
"""

PAUSED_AT_ONCE = """
import os, signal
from streamasr.cli.main import main
from streamasr.storage.lock import Lock
enter = Lock.__enter__
def enter_and_pause(self):
    enter(self)
    os.kill(os.getpid(), signal.SIGUSR1)
    return self
Lock.__enter__ = enter_and_pause
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
    """Send the clip, and return the text of its finals."""
    async with client.connect(url) as stream:
        await stream.send(speech())
        await stream.stop()
        events = [event async for event in stream]
    return " ".join(event.text for event in events if isinstance(event, v1.Final))


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ManagerSocket]:
    address = str(tmp_path / "notify")
    with ManagerSocket(
        f"@streamasr{address}" if request.param == "abstract" else address
    ) as manager:
        yield manager


def test_the_daemon_reports_its_state_from_start_to_end(
    tmp_path: Path, manager: ManagerSocket, embedded: EmbeddedModel
) -> None:
    with SupervisedDaemon(tmp_path, manager=manager, model=embedded.name) as daemon:
        assert manager.receive() == {"READY": "1", "STATUS": f"loading {embedded}"}
        assert manager.receive() == {"STATUS": f"{embedded} is ready, 0 sessions"}
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        daemon.process.send_signal(signal.SIGHUP)
        reloading = manager.receive()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert reloading["RELOADING"] == "1"
        assert before <= int(reloading["MONOTONIC_USEC"]) <= after
        assert manager.receive() == {"READY": "1"}
        assert daemon.stop() == 0
        assert manager.receive()["STOPPING"] == "1"


def test_a_daemon_with_a_long_stop_timeout_asks_for_more_time(tmp_path: Path) -> None:
    settings = "[server]\nstop_timeout_s = 600\n"
    with (
        ManagerSocket(str(tmp_path / "notify")) as manager,
        SupervisedDaemon(tmp_path, manager=manager, settings=settings) as daemon,
    ):
        manager.receive_until(STATUS="tiny is ready, 0 sessions")
        assert daemon.stop() == 0
        stopping = manager.receive()
        assert stopping["STOPPING"] == "1"
        assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 600e6


def test_a_daemon_can_be_paused_as_soon_as_it_can_be_found(tmp_path: Path) -> None:
    daemon = SupervisedDaemon(tmp_path)
    daemon.program = ["-c", PAUSED_AT_ONCE]
    with daemon:
        assert "the microphone is closed" in daemon.all_log
        assert daemon.stop() == 0


def test_a_wrong_configuration_ends_the_reload_too(tmp_path: Path) -> None:
    with (
        ManagerSocket(str(tmp_path / "notify")) as manager,
        SupervisedDaemon(tmp_path, manager=manager) as daemon,
    ):
        manager.receive_until(STATUS="tiny is ready, 0 sessions")
        daemon.config.write_text("[server]\nport = 'none'\n", "utf-8")
        daemon.process.send_signal(signal.SIGHUP)
        assert manager.receive()["RELOADING"] == "1"
        assert manager.receive() == {"READY": "1"}
        daemon.wait_for("stays as it was")


async def test_without_a_service_manager_nothing_is_reported(tmp_path: Path) -> None:
    with SupervisedDaemon(tmp_path) as daemon:
        assert await speak(daemon.url)
        assert daemon.stop() == 0
    assert "service manager" not in daemon.all_log


def test_a_daemon_continues_without_its_service_manager(tmp_path: Path) -> None:
    with ManagerSocket(str(tmp_path / "notify")) as manager:
        gone = manager
    with SupervisedDaemon(tmp_path, "-v", manager=gone) as daemon:
        daemon.wait_for("is loaded")
        assert daemon.stop() == 0
    assert daemon.all_log.count("cannot send messages to the service manager") == 1


# The watchdog.


async def test_a_hanging_decoder_is_noticed_and_its_session_continues_after_the_restart(
    tmp_path: Path,
) -> None:
    with ManagerSocket(str(tmp_path / "notify")) as manager:
        daemon = SupervisedDaemon(tmp_path, manager=manager, watchdog_s=WATCHDOG_S)
        daemon.program = ["-X", "faulthandler", "-c", HANGING]

        with daemon:
            async with client.connect(daemon.url) as stream:
                speaking = asyncio.create_task(send_all(stream))
                await asyncio.to_thread(until_silent, manager)
                daemon.wait_for("decoder stalled")
                assert daemon.end_by_watchdog() == -signal.SIGABRT
                daemon.program = ["-m", "streamasr"]
                await asyncio.to_thread(daemon.start)
                await speaking
                events = [event async for event in stream]
            text = " ".join(event.text for event in events if isinstance(event, v1.Final))
            assert "Current thread" in daemon.all_log  # traceback for the journal
            assert text == await speak(daemon.url)


async def test_idle_and_at_work_keep_alives_are_sent_in_time(
    tmp_path: Path, embedded: EmbeddedModel
) -> None:
    with (
        ManagerSocket(str(tmp_path / "notify")) as manager,
        SupervisedDaemon(
            tmp_path, manager=manager, watchdog_s=WATCHDOG_S, model=embedded.name
        ) as daemon,
    ):
        manager.receive_until(STATUS=f"{embedded} is ready, 0 sessions")
        manager.receive_until(WATCHDOG="1")
        assert await speak(daemon.url)
        manager.receive_until(WATCHDOG="1")
        assert daemon.stop() == 0
    assert "stalled" not in daemon.all_log


async def test_a_slow_batch_with_progress_does_not_stop_keep_alives(
    tmp_path: Path,
) -> None:
    with ManagerSocket(str(tmp_path / "notify")) as manager:
        daemon = SupervisedDaemon(tmp_path, manager=manager, watchdog_s=WATCHDOG_S)
        daemon.program = ["-c", SLOW]
        with daemon:
            assert await speak(daemon.url)
            assert daemon.stop() == 0
    assert "stalled" not in daemon.all_log


async def test_a_hanging_encoder_does_not_stop_keep_alives(
    tmp_path: Path, embedded: EmbeddedModel
) -> None:
    with ManagerSocket(str(tmp_path / "notify")) as manager:
        daemon = SupervisedDaemon(
            tmp_path,
            manager=manager,
            watchdog_s=WATCHDOG_S,
            settings=UNREVISED,
            model=embedded.name,
        )
        with daemon:
            daemon.wait_for("is loaded")
            encoder = daemon.children()["encoder"]
            os.kill(encoder, signal.SIGSTOP)
            speaking = asyncio.create_task(speak(daemon.url))
            await asyncio.to_thread(manager.receive_until, STATUS=f"{embedded} is ready, 1 session")
            for _ in range(4):  # twice the time after which the daemon would be ended
                await asyncio.to_thread(manager.receive_until, WATCHDOG="1")
            os.kill(encoder, signal.SIGKILL)
            assert await speaking == await speak(daemon.url) != ""
            assert daemon.stop() == 0
    assert "stalled" not in daemon.all_log


async def send_all(stream: client.AudioSession) -> None:
    await stream.send(speech())
    await stream.stop()


def until_silent(manager: ManagerSocket) -> None:
    """Wait until the watchdog would end the daemon."""
    last = time.monotonic()
    while (left := last + WATCHDOG_S - time.monotonic()) > 0:
        try:
            if "WATCHDOG" in manager.receive(left):
                last = time.monotonic()
        except TimeoutError:
            return


# Sockets of the service manager.


async def test_a_client_that_connects_without_a_daemon_is_served_by_the_next_one(
    tmp_path: Path,
) -> None:
    with listening() as opened:
        daemon = SupervisedDaemon(tmp_path, sockets=[opened])

        async def connect_before_it_runs() -> str:
            speaking = asyncio.create_task(speak(url_of(opened)))
            await asyncio.to_thread(daemon.start)
            return await speaking

        with daemon:
            text = await speak(daemon.url)
            assert daemon.stop() == 0
            assert await connect_before_it_runs() == text != ""


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


def test_children_inherit_neither_the_socket_nor_its_variables(tmp_path: Path) -> None:
    with ManagerSocket(str(tmp_path / "notify")) as manager, listening() as opened:
        daemon = SupervisedDaemon(tmp_path, "-v", manager=manager, watchdog_s=60, sockets=[opened])
        with daemon:
            manager.receive_until(STATUS="tiny is ready, 0 sessions")
            [encoder] = [pid for name, pid in daemon.children().items() if name == "encoder"]
            inherited = Path(f"/proc/{encoder}/environ").read_bytes()
            assert not [name for name in (b"LISTEN", b"NOTIFY", b"WATCHDOG") if name in inherited]
            inode = f"socket:[{Path(f'/proc/self/fd/{opened.fileno()}').stat().st_ino}]"
            assert inode in open_files(daemon.process.pid)
            assert inode not in open_files(encoder)


def open_files(process: int) -> list[str]:
    return [str(link.readlink()) for link in Path(f"/proc/{process}/fd").iterdir()]


def test_a_socket_for_other_machines_is_refused_without_a_token(tmp_path: Path) -> None:
    with listening("0.0.0.0") as opened:
        daemon = SupervisedDaemon(tmp_path, sockets=[opened])
        assert refusal(daemon) == (
            "streamasr: other machines could connect to '0.0.0.0', the socket that the service "
            "manager opened: set server.token_file, or ListenStream=127.0.0.1:8765.\n"
        )


def test_a_reload_cannot_remove_the_token_of_a_socket_for_other_machines(
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


def test_a_socket_that_does_not_listen_is_refused(tmp_path: Path) -> None:
    with socket.socket() as unused:
        sentence = refusal(SupervisedDaemon(tmp_path, sockets=[unused]))
        assert "is not a listening stream socket; use ListenStream= and Accept=no." in sentence


def refusal(daemon: RunningDaemon) -> str:
    """Return the message of a daemon that refuses its configuration."""
    process = daemon.spawn(daemon.command, dict(os.environ))
    _, said = process.communicate(timeout=100)
    assert process.returncode == 78
    return "".join(line for line in said.splitlines(True) if "tiny" not in line)
