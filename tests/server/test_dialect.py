"""The seam between dialects, transports and the server, proved with a toy dialect.

The same codec runs over plain TCP and in the bodies of HTTP requests; the project's own dialect
runs on a transport made of ASGI messages.
"""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from websockets.asyncio.client import connect as websocket
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from streamasr.core.orders import Recognise
from streamasr.protocols.v1_dialect import V1Dialect
from streamasr.server.timeouts import Timeouts
from tests.support.asgi import AsgiClient
from tests.support.fake_daemon import (
    DaemonOptions,
    FakeDaemon,
    durable,
    exact,
    hang_up,
    recognise,
    running_daemon,
)
from tests.support.fakes import FakeEngine, PatientEngine, pcm, talk
from tests.support.ndjson import MAX_LINE, PATH, AnyPathDialect, NdjsonDialect
from tests.support.waiting import eventually

TALK = exact(talk(1.5, 2.0))
EXPECTED = recognise(TALK)
FINALS = [message["text"] for message in EXPECTED if message["type"] == "final"]
LINES = NdjsonDialect()


def audio_lines(samples: np.ndarray, block: int = 3200) -> list[dict[str, Any]]:
    blocks = (samples[begin : begin + block] for begin in range(0, len(samples), block))
    return [{"audio": base64.b64encode(pcm(each)).decode()} for each in blocks]


class LineClient:
    """A client of the toy dialect on a TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, port: int) -> AsyncIterator[Self]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            await hang_up(writer)

    async def send(self, *lines: dict[str, Any]) -> None:
        self.writer.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        await self.writer.drain()

    async def next(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(await self.reader.readline())
        return line

    async def receive(self, kind: str) -> list[dict[str, Any]]:
        """Return the lines up to the next one of a kind."""
        lines = [await self.next()]
        while kind not in lines[-1]:
            lines.append(await self.next())
        return lines


@contextlib.asynccontextmanager
async def tcp_daemon(
    directory: Path, options: DaemonOptions | None = None
) -> AsyncIterator[tuple[FakeDaemon, int]]:
    async with (
        running_daemon(directory, options or DaemonOptions()) as daemon,
        daemon.server.running_tcp(LINES, "127.0.0.1", 0) as port,
    ):
        yield daemon, port


def texts(lines: list[dict[str, Any]]) -> list[str]:
    return [line["final"] for line in lines if "final" in line]


async def test_a_session_over_tcp_gives_the_text_of_one_over_a_websocket(tmp_path: Path) -> None:
    async with tcp_daemon(tmp_path) as (daemon, port), LineClient.connect(port) as client:
        await client.send({"start": {}}, *audio_lines(TALK), {"end": True})
        lines = await client.receive("end")
        assert "open" in lines[0]
        assert texts(lines) == FINALS
        assert lines[-1] == {"end": len(TALK) / 16_000}
        await eventually(lambda: not len(daemon.sessions))  # it cannot be resumed


async def test_lines_may_be_cut_anywhere(tmp_path: Path) -> None:
    sent = [{"start": {}}, *audio_lines(TALK), {"end": True}]
    data = "".join(json.dumps(line) + "\n" for line in sent).encode()
    async with tcp_daemon(tmp_path) as (_, port), LineClient.connect(port) as client:
        for begin in range(0, len(data), 1009):
            client.writer.write(data[begin : begin + 1009])
            await client.writer.drain()
        assert texts(await client.receive("end")) == FINALS


async def test_several_sessions_follow_each_other_on_a_connection(tmp_path: Path) -> None:
    async with tcp_daemon(tmp_path) as (_, port), LineClient.connect(port) as client:
        for _ in range(3):
            await client.send({"echo": "before"}, {"start": {}}, *audio_lines(TALK), {"end": True})
            assert await client.next() == {"echo": "before"}
            assert texts(await client.receive("end")) == FINALS
        await client.send({"quit": True})
        assert await client.reader.read() == b""


async def test_the_end_of_the_input_is_not_the_end_of_the_output(tmp_path: Path) -> None:
    async with tcp_daemon(tmp_path) as (_, port), LineClient.connect(port) as client:
        await client.send({"start": {}}, *audio_lines(TALK))
        client.writer.write_eof()
        assert texts(await client.receive("end")) == FINALS
        assert await client.reader.read() == b""


async def test_a_reply_stands_between_the_results_around_it(tmp_path: Path) -> None:
    async with tcp_daemon(tmp_path) as (_, port), LineClient.connect(port) as client:
        await client.send({"start": {}}, *audio_lines(TALK[:64_000]))
        before = await client.receive("final")
        await client.send({"echo": 1}, *audio_lines(TALK[64_000:]), {"echo": 2}, {"end": True})
        after = await client.receive("end")
        assert texts(before + after) == FINALS
        order = [next(iter(line)) for line in after if "echo" in line or "final" in line]
        assert order[0] == "echo"
        assert {"echo": 2} in after


async def test_an_error_does_not_end_the_connection_of_a_dialect_that_goes_on(
    tmp_path: Path,
) -> None:
    engine = FakeEngine()
    async with (
        tcp_daemon(tmp_path, DaemonOptions(engine=engine)) as (_, port),
        LineClient.connect(port) as client,
    ):
        await client.send({"flush": True})
        assert await client.next() == {"error": "out_of_order"}
        await client.send({"start": {"language": "Klingon"}})
        assert await client.next() == {"error": "bad_value"}
        await client.send({"start": {"rate": 1}})
        assert await client.next() == {"error": "bad_value"}
        await client.send({"start": {"language": "de"}}, {"set": {"language": "Klingon"}})
        await client.receive("open")
        assert await client.next() == {"error": "bad_value"}
        client.writer.write(b"{nonsense\n")
        assert await client.next() == {"error": "bad_json"}
        await client.send({"start": {}})
        assert await client.next() == {"error": "out_of_order"}
        await client.send(*audio_lines(TALK), {"end": True})
        assert texts(await client.receive("end")) == FINALS
        languages = {o.options.language for o in engine.orders if isinstance(o, Recognise)}
        assert languages == {"German"}


async def test_a_line_without_an_end_is_refused(tmp_path: Path) -> None:
    async with tcp_daemon(tmp_path) as (_, port), LineClient.connect(port) as client:
        client.writer.write((MAX_LINE + 1) * b"x")
        await client.writer.drain()
        assert await client.next() == {"error": "too_big"}


async def test_the_rate_may_change_within_a_session(tmp_path: Path) -> None:
    slow = TALK[::2][: len(TALK) // 4]
    async with tcp_daemon(tmp_path) as (_, port), LineClient.connect(port) as client:
        await client.send({"start": {}}, *audio_lines(TALK[: len(TALK) // 2]))
        await client.send({"rate": 8000}, *audio_lines(slow), {"end": True})
        lines = await client.receive("end")
        assert lines[-1]["end"] == pytest.approx(len(TALK) / 16_000, abs=0.01)


async def test_a_client_that_leaves_leaves_no_session_behind(tmp_path: Path) -> None:
    async with tcp_daemon(tmp_path) as (daemon, port):
        async with LineClient.connect(port) as client:
            await client.send({"start": {}}, *audio_lines(TALK[:32_000]))
            await client.receive("speech")
        await eventually(lambda: not len(daemon.sessions))
        await eventually(lambda: not daemon.server.n_connections)


async def test_a_client_is_held_back_by_the_session(tmp_path: Path) -> None:
    options = DaemonOptions(engine=PatientEngine(), max_lag_s=5.0, timeouts=Timeouts(close=0.2))
    async with tcp_daemon(tmp_path, options) as (daemon, port), LineClient.connect(port) as client:
        sending = asyncio.create_task(client.send({"start": {}}, *audio_lines(np.tile(TALK, 50))))
        await eventually(lambda: len(daemon.sessions) == 1)
        [live] = daemon.sessions
        await eventually(lambda: not live.intake.has_room(daemon.max_lag))
        for _ in range(100):
            await asyncio.sleep(0)
        assert live.intake.position < 10 * 16_000
        sending.cancel()


# The same dialect in the body of an HTTP request.


async def post(daemon: FakeDaemon, lines: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """Send lines in a chunked body; return the head of the response and its lines."""
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    writer.write(
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "Transfer-Encoding: chunked\r\n\r\n".encode()
    )
    for line in lines:
        data = json.dumps(line).encode() + b"\n"
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    await hang_up(writer)
    chunks = body.split("\r\n")[1::2]
    return head, [json.loads(line) for line in "".join(chunks).splitlines()]


async def test_a_session_in_a_request_gives_the_same_text(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, DaemonOptions(dialects=(V1Dialect(), LINES))) as daemon:
        head, lines = await post(daemon, [{"start": {}}, *audio_lines(TALK)])
        assert head.startswith("HTTP/1.1 200 ")
        assert "application/x-ndjson" in head
        assert texts(lines) == FINALS
        assert lines[-1] == {"end": len(TALK) / 16_000}
        await eventually(lambda: not len(daemon.sessions))


async def test_the_response_begins_before_the_request_is_complete(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, DaemonOptions(dialects=(LINES,))) as daemon:
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        writer.write(
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        for line in [{"start": {}}, *audio_lines(TALK[:64_000])]:
            data = json.dumps(line).encode() + b"\n"
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await reader.readuntil(b'{"final": "')
        writer.write(b"0\r\n\r\n")
        await reader.readuntil(b"0\r\n\r\n")
        await hang_up(writer)


# A WebSocket on a port of its own.


async def test_a_dialect_may_serve_every_path_of_its_own_port(tmp_path: Path) -> None:
    async with (
        running_daemon(tmp_path) as daemon,
        daemon.server.running_http([AnyPathDialect()], "127.0.0.1", 0, is_loopback=True) as port,
    ):
        for path in ("/", "/any/path?x=1"):
            async with websocket(f"ws://127.0.0.1:{port}{path}") as connection:
                for line in [{"start": {}}, *audio_lines(TALK), {"end": True}]:
                    await connection.send(json.dumps(line) + "\n")
                lines = [json.loads(await connection.recv())]
                while "end" not in lines[-1]:
                    lines.append(json.loads(await connection.recv()))
                assert texts(lines) == FINALS
        with pytest.raises(InvalidStatus):
            async with websocket(f"ws://127.0.0.1:{port}/", origin=Origin("http://evil.example")):
                pass
        with pytest.raises(InvalidStatus):  # the main port has it not
            async with websocket(daemon.url("/any/path")):
                pass


# Another server's transport.


def asgi_client(daemon: FakeDaemon) -> contextlib.AbstractAsyncContextManager[AsgiClient]:
    return AsgiClient.connect(daemon.host, V1Dialect())


async def test_our_own_dialect_runs_on_asgi(tmp_path: Path) -> None:
    async with (
        running_daemon(tmp_path) as daemon,
        asgi_client(daemon) as client,
    ):
        await client.send('{"type": "start"}')
        assert (await client.next())["type"] == "ready"
        for begin in range(0, len(TALK), 3200):
            await client.send(pcm(TALK[begin : begin + 3200]))
        await client.send('{"type": "stop"}')
        messages = [await client.next()]
        while messages[-1]["type"] != "end":
            messages.append(await client.next())
        assert durable(messages) == EXPECTED
        assert await client.wait_closed() == 1000


async def test_a_client_of_asgi_that_leaves_can_come_back(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        async with asgi_client(daemon) as client:
            await client.send('{"type": "start"}')
            name = (await client.next())["session"]
            await client.send(pcm(TALK[:40_000]))
            await eventually(lambda: daemon.sessions.find(name).intake.position == 40_000)
            client.leave(1006)
        async with asgi_client(daemon) as client:
            await client.send(json.dumps({"type": "start", "session": name}))
            assert (await client.next())["next_sample"] == 40_000


async def test_a_refusal_has_its_close_code_on_asgi(tmp_path: Path) -> None:
    async with (
        running_daemon(tmp_path) as daemon,
        asgi_client(daemon) as client,
    ):
        await client.send("{")
        assert (await client.next())["code"] == "bad_json"
        assert await client.wait_closed() == 1007
