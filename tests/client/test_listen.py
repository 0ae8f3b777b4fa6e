"""Tests of live captions: lines for pipes, JSON for programs, a terminal that is restored."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from websockets.asyncio.server import Server, ServerConnection, serve

import streamasr
from streamasr.client import v1
from streamasr.core.notices import NoticeCode
from tests.support.fakes import talk, write_wav

SCRIPT = Path(streamasr.__file__).parents[1] / "clients" / "listen.py"

READY = v1.Ready(session="microphone", model="tiny", seq=0, next_sample=0)


def partial(text: str, stable: int = 0, segment: int = 1) -> v1.Partial:
    return v1.Partial(
        segment=segment, text=text, stable=stable, start=segment, end=segment + 1, language=None
    )


def final(seq: int, text: str, segment: int = 1) -> v1.Final:
    return v1.Final(
        seq=seq,
        segment=segment,
        text=text,
        language=None,
        start=segment,
        end=segment + 1,
        reason="silence",
    )


SPOKEN: list[v1.ServerMessage] = [
    READY,
    partial("one two three", stable=4),
    final(1, "one two\x1b[2J\nthree"),
    v1.Gap(seq=2, start=2.0, end=3.5, reason="the microphone was taken away"),
    v1.Warning(code=NoticeCode.LAGGING, message="slow", lag=3.0),
    final(3, "", segment=2),
    final(4, "你好", segment=3),
]
END = v1.End(seq=5, duration=5.0, segments=3, words=0)


FIRST_END = v1.End(seq=2, duration=1.0, segments=1, words=0)


def say(
    *messages: v1.ServerMessage, stay: bool = False
) -> Callable[[ServerConnection], Coroutine[Any, Any, None]]:
    """Return a handler that sends messages to each client."""

    async def converse(connection: ServerConnection) -> None:
        for message in messages:
            await connection.send(v1.encode(message))
        if stay:
            await connection.wait_closed()

    return converse


def serving(*messages: v1.ServerMessage, stay: bool = False) -> AbstractAsyncContextManager[Server]:
    return serve(say(*messages, stay=stay), "127.0.0.1", 0)


def url_of(server: Server) -> str:
    return f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def listen(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])},
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_a_pipe_gets_one_line_for_each_final() -> None:
    async with serving(*SPOKEN, END) as server:
        code, out, err = await listen("--url", url_of(server))
    assert (code, out) == (0, "one two [2J three\n你好\n")
    assert err == ("1.5 s of audio have no text: the microphone was taken away\nwarning: slow\n")


async def test_json_output_contains_the_messages_unchanged() -> None:
    async with serving(*SPOKEN, END) as server:
        code, out, err = await listen("--url", url_of(server), "--json")
    assert (code, err) == (0, "")
    assert [v1.decode_server(line) for line in out.splitlines()] == [*SPOKEN, END]


async def test_session_since_and_token_reach_the_server(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n", "utf-8")
    requests: list[tuple[str, str]] = []

    async def note(connection: ServerConnection) -> None:
        assert connection.request is not None
        requests.append((connection.request.path, connection.request.headers["Authorization"]))
        ready = v1.Ready(session="work", model="tiny", seq=2, next_sample=0)
        await say(ready, final(3, "a"), END)(connection)

    async with serve(note, "127.0.0.1", 0) as server:
        code, out, err = await listen(
            *("--url", url_of(server), "--session", "work", "--since", "2"),
            *("--token-file", str(tmp_path / "token")),
        )
    assert (code, out) == (1, "a\n")
    assert err == "listen: the server left out message 4\n"
    assert requests == [("/v1/events?session=work&since=2", "Bearer secret")]


async def test_with_no_wait_a_missing_server_is_an_error() -> None:
    async with serving() as server:
        url = url_of(server)
    code, out, err = await listen("--no-wait", "--url", url)
    assert (code, out) == (1, "")
    assert err == f"listen: there is no server at {url}: Connection refused\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--token-file", "/nowhere/token"], "No such file or directory"),
        (["--url", "http://localhost"], "is not the address of a server"),
    ],
)
async def test_an_invalid_argument_gives_one_sentence(arguments: list[str], sentence: str) -> None:
    code, out, err = await listen("--url", "ws://127.0.0.1:1", *arguments)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert sentence in err


SIZES = ("COLUMNS", "LINES")  # in the environment they would override the size of the window


class Terminal:
    """Pseudo terminal that records the output."""

    def __init__(self, *arguments: str, columns: int = 40, kind: str = "xterm") -> None:
        self._leader, follower = pty.openpty()
        self.resize(columns)
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={name: os.environ[name] for name in os.environ if name not in SIZES}
            | {"PYTHONPATH": str(SCRIPT.parents[1]), "TERM": kind},
        )
        os.close(follower)

    def resize(self, columns: int) -> None:
        """Set the width of the window, without a signal to the program."""
        termios.tcsetwinsize(self._leader, (24, columns))

    async def wait_for(self, text: str) -> None:
        """Read until a text has been shown."""
        while text not in self.shown:
            await asyncio.to_thread(self._read)

    async def wait_for_end(self) -> int:
        while await asyncio.to_thread(self._read):
            pass
        os.close(self._leader)
        return await asyncio.to_thread(self.process.wait)

    def _read(self) -> bool:
        try:
            data = os.read(self._leader, 1 << 16)
        except OSError:  # the other end is closed
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_terminal_is_left_clean(number: signal.Signals) -> None:
    async with serving(READY, final(1, "done"), partial("more", segment=2), stay=True) as server:
        terminal = Terminal("--url", url_of(server))
        await terminal.wait_for("more")
        terminal.process.send_signal(number)
        code = await terminal.wait_for_end()
    assert code == 130
    assert "done" in terminal.shown
    assert "Traceback" not in terminal.shown
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")  # the cursor
    assert terminal.shown.rindex("\x1b[2K") > terminal.shown.rindex("more")  # the caption


async def test_a_terminal_shows_that_the_server_is_missing() -> None:
    async with serving() as server:
        url = url_of(server)
    terminal = Terminal("--url", url)
    await terminal.wait_for("waiting: there is no server")
    port = int(url.rpartition(":")[2])
    async with serve(
        say(READY, final(1, "hello"), v1.End(seq=2, duration=1, segments=1, words=0)),
        "127.0.0.1",
        port,
    ):
        code = await terminal.wait_for_end()
    assert code == 0
    assert "hello" in terminal.shown
    assert "the session is over" in terminal.shown


async def test_stable_text_is_solid_and_the_rest_is_dim() -> None:
    async with serving(READY, partial("one two three", stable=4), stay=True) as server:
        terminal = Terminal("--url", url_of(server))
        await terminal.wait_for("three")
        terminal.process.send_signal(signal.SIGINT)
        await terminal.wait_for_end()
    assert "one \x1b[2mtwo three" in terminal.shown


async def test_a_long_caption_shows_its_last_lines() -> None:
    words = " ".join(f"w{i}" for i in range(1000))
    async with serving(READY, partial(words), stay=True) as server:
        terminal = Terminal("--url", url_of(server))
        await terminal.wait_for("w999")
        terminal.process.send_signal(signal.SIGINT)
        await terminal.wait_for_end()
    assert "w900" not in terminal.shown
    assert len(Console().render_lines(words)) > 6


async def test_captions_are_redrawn_when_the_window_changes() -> None:
    async with serving(READY, partial("one two three four five six"), stay=True) as server:
        terminal = Terminal("--url", url_of(server), columns=60)
        await terminal.wait_for("one two three four five six")
        terminal.shown = ""
        terminal.resize(15)
        terminal.process.send_signal(signal.SIGWINCH)
        await terminal.wait_for("four five six")
        terminal.process.send_signal(signal.SIGINT)
        await terminal.wait_for_end()
    assert "one two three \r\n" in terminal.shown.replace("\x1b[0m", "").replace("\x1b[2m", "")


@pytest.mark.parametrize(
    ("columns", "n_rows"), [(60, 2), (40, 2), (28, 4), (15, 4), (14, 6), (5, 13)]
)
async def test_rows_added_by_a_narrower_window_are_removed(columns: int, n_rows: int) -> None:
    async with serving(READY, partial("abcdefghijklmno 一二三四五六七"), stay=True) as server:
        terminal = Terminal("--url", url_of(server), columns=60)
        await terminal.wait_for("listening to microphone, tiny")
        await terminal.wait_for("七")
        terminal.shown = ""
        terminal.resize(columns)
        terminal.process.send_signal(signal.SIGWINCH)
        await terminal.wait_for("listen" if columns > 6 else "list")
        before = terminal.shown
        terminal.process.send_signal(signal.SIGINT)
        await terminal.wait_for_end()
    assert before.count("\x1b[1A") == n_rows - 1


async def test_joined_characters_do_not_remove_a_row_of_finals() -> None:
    """The sum of their widths exceeds the window."""
    family = "\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}"
    async with serving(READY, partial(family * 15), stay=True) as server:
        terminal = Terminal("--url", url_of(server), columns=60)
        await terminal.wait_for(family)
        await terminal.wait_for("listening to microphone, tiny")
        terminal.shown = ""
        terminal.process.send_signal(signal.SIGWINCH)
        await terminal.wait_for("listening to microphone, tiny")
        before = terminal.shown
        terminal.process.send_signal(signal.SIGINT)
        await terminal.wait_for_end()
    assert before.count("\x1b[1A") == 1


async def test_wide_characters_are_counted_as_two_columns() -> None:
    async with serving(READY, partial("一二三四五六七八九十"), stay=True) as server:
        terminal = Terminal("--url", url_of(server), columns=15)
        await terminal.wait_for("八九十")
        terminal.process.send_signal(signal.SIGINT)
        await terminal.wait_for_end()
    assert "一二三四五六七\x1b" in terminal.shown


async def test_a_dumb_terminal_gets_lines() -> None:
    async with serving(READY, partial("on"), final(1, "one"), FIRST_END) as server:
        terminal = Terminal("--url", url_of(server), kind="dumb")
        assert await terminal.wait_for_end() == 0
    assert terminal.shown == "one\r\n"


async def test_joiners_are_kept_and_direction_codes_are_removed() -> None:
    text = "می\u200cخواهم a\u202eb\u00adc\ttab"
    async with serving(READY, final(1, text), FIRST_END) as server:
        _, out, _ = await listen("--url", url_of(server))
    assert out == "می\u200cخواهم abc tab\n"


@pytest.mark.parametrize("script", ["listen.py", "stream_file.py"])
async def test_a_background_job_can_be_terminated(script: str, tmp_path: Path) -> None:
    file = write_wav(tmp_path / "talk.wav", talk(0.7))
    input_file = [] if script == "listen.py" else [str(file)]
    connected = asyncio.Event()

    async def stay(connection: ServerConnection) -> None:
        connected.set()
        await connection.wait_closed()

    async with serve(stay, "127.0.0.1", 0) as server:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable),
            *(str(SCRIPT.with_name(script)), "--url", url_of(server), *input_file),
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])},
        )
        try:
            await connected.wait()
            process.terminate()
            code = await asyncio.wait_for(process.wait(), 30)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert code == -signal.SIGTERM


async def test_a_closed_pipe_is_not_an_error() -> None:
    many = [final(seq, "x" * 5000, segment=seq) for seq in range(1, 100)]
    async with serving(READY, *many, stay=True) as server:
        command = f"{sys.executable} {SCRIPT} --url {url_of(server)} | head -c 10"
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", f"set -o pipefail; {command}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])},
        )
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"x" * 10, b"")
