"""Tests of the control socket: requests of shortcuts, by the same user only."""

import asyncio
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamasr.core.errors import ConfigError, ProtocolError
from streamasr.dictation import control
from streamasr.dictation.control import Command, NotRunningError, ask, control_path, serve
from streamasr.dictation.push_to_talk import State
from tests.support.errors import raises


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:  # paths of sockets must be short
        yield Path(directory) / "streamasr" / "dictate.sock"


class Recorder:
    """Executor that records the commands."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def __call__(self, command: Command) -> State:
        self.commands.append(command)
        return "listening"


async def test_a_command_is_executed_and_answered_with_the_state(path: Path) -> None:
    execute = Recorder()
    async with serve(path, execute):
        for command in control.COMMANDS:
            assert await asyncio.to_thread(ask, path, command) == "listening"
    assert execute.commands == list(control.COMMANDS)
    assert not path.exists()


async def test_only_the_same_user_can_reach_the_socket(path: Path) -> None:
    async with serve(path, Recorder()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_another_user_gets_no_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = Recorder()
    own = os.getuid()
    async with serve(path, execute):
        monkeypatch.setattr("os.getuid", lambda: own + 1)
        with raises(ProtocolError, "dictation_does_not_answer"):
            await asyncio.to_thread(ask, path, "toggle")
    assert execute.commands == []


def test_a_command_without_a_running_dictation_fails(path: Path) -> None:
    with raises(NotRunningError, "dictation_not_running"):
        ask(path, "toggle")


async def test_a_second_dictation_is_refused(path: Path) -> None:
    async with serve(path, Recorder()):
        with raises(ConfigError, "dictation_already_running"):
            async with serve(path, Recorder()):
                pass
        assert await asyncio.to_thread(ask, path, "status") == "listening"


async def test_a_dictation_that_is_just_starting_is_not_taken_for_a_dead_one(path: Path) -> None:
    async with serve(path, Recorder()):
        # As between bind and listen of the other dictation, when connections are refused.
        path.unlink()
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
            with raises(ConfigError, "dictation_already_running"):
                async with serve(path, Recorder()):
                    pass
        assert path.exists()


async def test_the_socket_of_a_killed_dictation_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with serve(path, Recorder()):
        assert await asyncio.to_thread(ask, path, "status") == "listening"


async def test_a_directory_that_other_users_can_write_to_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)

    with raises(ConfigError, "directory_not_private"):
        async with serve(path, Recorder()):
            pass


async def test_another_file_at_the_path_is_kept(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")

    with raises(ConfigError, "socket_unusable") as caught:
        async with serve(path, Recorder()):
            pass
    assert str(path) in str(caught.value)
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"toggle\n",
        b'{"command": "explode"}\n',
        b'{"command": "stop", "now": 1}\n',
        b"\xff\xfe\n",
        b"{" * 100_000,
        b'{"command": "toggle"',
    ],
)
async def test_an_invalid_request_is_answered_and_has_no_effect(path: Path, line: bytes) -> None:
    execute = Recorder()
    async with serve(path, execute):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(line)
        writer.write_eof()
        answer = await reader.read()
        assert answer.startswith(b'{"error":"invalid request')
        writer.close()
        assert await asyncio.to_thread(ask, path, "status") == "listening"
    assert execute.commands == ["status"]


def test_the_default_path_is_in_the_runtime_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert control_path() == Path("/run/user/1/streamasr/dictate.sock")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert str(os.getuid()) in str(control_path())
