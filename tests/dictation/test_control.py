"""The control socket: shortcuts of the same user, in one line each way."""

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
from streamasr.dictation.control import Command, NobodyListensError, ask, control_path, serve
from streamasr.dictation.push_to_talk import State


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:  # the path of a socket has to be short
        yield Path(directory) / "streamasr" / "dictate.sock"


class Obeying:
    """What a dictation would do."""

    def __init__(self) -> None:
        self.asked: list[Command] = []

    def __call__(self, command: Command) -> State:
        self.asked.append(command)
        return "listening"


async def test_a_request_is_obeyed_and_answered(path: Path) -> None:
    obey = Obeying()
    async with serve(path, obey):
        for command in control.COMMANDS:
            assert await asyncio.to_thread(ask, path, command) == "listening"
    assert obey.asked == list(control.COMMANDS)
    assert not path.exists()


async def test_nobody_else_can_reach_it(path: Path) -> None:
    async with serve(path, Obeying()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_another_user_gets_no_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    obey = Obeying()
    own = os.getuid()
    async with serve(path, obey):
        monkeypatch.setattr("os.getuid", lambda: own + 1)
        with pytest.raises(ProtocolError):
            await asyncio.to_thread(ask, path, "toggle")
    assert obey.asked == []


def test_without_a_dictation_it_is_one_sentence(path: Path) -> None:
    with pytest.raises(NobodyListensError, match="no dictation is running"):
        ask(path, "toggle")


async def test_a_second_dictation_is_refused(path: Path) -> None:
    async with serve(path, Obeying()):
        with pytest.raises(ConfigError, match="another dictation is running"):
            async with serve(path, Obeying()):
                pass
        assert await asyncio.to_thread(ask, path, "status") == "listening"


async def test_one_that_has_only_begun_to_listen_is_not_taken_for_dead(path: Path) -> None:
    async with serve(path, Obeying()):
        # As between its bind and its listen: whoever connects is refused.
        path.unlink()
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
            with pytest.raises(ConfigError, match="another dictation is running"):
                async with serve(path, Obeying()):
                    pass
        assert path.exists()


async def test_what_a_killed_dictation_left_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with serve(path, Obeying()):
        assert await asyncio.to_thread(ask, path, "status") == "listening"


async def test_a_directory_that_others_can_write_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)

    async def story() -> None:
        async with serve(path, Obeying()):
            pass

    with pytest.raises(ConfigError, match="can be written by others"):
        await story()


async def test_a_file_in_its_place_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")

    async def story() -> None:
        async with serve(path, Obeying()):
            pass

    with pytest.raises(ConfigError, match="cannot be listened to"):
        await story()
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
async def test_nonsense_is_answered_and_harms_nobody(path: Path, line: bytes) -> None:
    obey = Obeying()
    async with serve(path, obey):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(line)
        writer.write_eof()
        answer = await reader.read()
        assert answer.startswith(b'{"error":"this is no request')
        writer.close()
        assert await asyncio.to_thread(ask, path, "status") == "listening"
    assert obey.asked == ["status"]


def test_the_socket_is_where_the_session_keeps_such_things(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert control_path() == Path("/run/user/1/streamasr/dictate.sock")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert str(os.getuid()) in str(control_path())
