"""HTTP on a raw socket: framing, streamed bodies, reuse of connections, and what goes wrong."""

import asyncio
import base64
import contextlib
import hashlib
import logging
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from streamasr.protocols.v1_dialect import V1Dialect
from streamasr.server.timeouts import Timeouts
from tests.support.fake_daemon import DaemonOptions, FakeDaemon, hang_up, running_daemon
from tests.support.ndjson import CountingDialect, NdjsonDialect
from tests.support.waiting import LoopClock, eventually

DIALECTS = (V1Dialect(), CountingDialect(), NdjsonDialect())
QUICK = Timeouts(start=0.3, body=0.3, idle=0.3, close=0.3)

Headers = dict[str, str]


@pytest.fixture(autouse=True)
def _quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Clients cause no warnings in the log."""
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class HttpClient:
    """Client that sends bytes and reads responses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: str | bytes) -> None:
        self.writer.write(data.encode("latin-1") if isinstance(data, str) else data)
        await self.writer.drain()

    async def head(self) -> tuple[int, Headers]:
        """Read the head of a response."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines)

    async def response(self, *, has_body: bool = True) -> tuple[int, Headers, str]:
        """Read a response whose length is told or which comes in chunks."""
        status, headers = await self.head()
        body = b""
        if has_body and "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readline(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        return status, headers, body.decode()

    async def is_closed(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return await self.reader.read() == b""
        return True


@contextlib.asynccontextmanager
async def connect(daemon: FakeDaemon) -> AsyncIterator[HttpClient]:
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
    try:
        yield HttpClient(reader, writer)
    finally:
        await hang_up(writer)


@contextlib.asynccontextmanager
async def connected(
    directory: Path, timeouts: Timeouts | None = None, token: str | None = None
) -> AsyncIterator[HttpClient]:
    options = DaemonOptions(dialects=DIALECTS, timeouts=timeouts or Timeouts(), token=token)
    async with running_daemon(directory, options) as daemon, connect(daemon) as client:
        yield client


def request(method: str, path: str, *headers: str) -> str:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""])


# Bodies.


async def test_a_body_may_have_a_length_or_come_in_chunks(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        await client.send(request("POST", "/count", "Content-Length: 5") + "hello")
        assert (await client.response())[2] == '{"bytes": 5}\n'
        chunks = "3\r\nabc\r\n1;name=value\r\nd\r\n0\r\nTrailer: x\r\n\r\n"
        await client.send(request("PUT", "/count", "Transfer-Encoding: chunked") + chunks)
        assert (await client.response())[2] == '{"bytes": 4}\n'
        await client.send(request("POST", "/count", "Content-Length: 0"))
        assert (await client.response())[2] == '{"bytes": 0}\n'


@pytest.mark.parametrize("size", [7, 64 * 1024, 1_000_000])
async def test_a_large_body_passes_through_bounded_memory(tmp_path: Path, size: int) -> None:
    total = 200_000_000 if size > 7 else 200_000
    chunk = f"{size:x}\r\n".encode() + bytes(size) + b"\r\n"
    async with connected(tmp_path) as client:
        await client.send(request("POST", "/count", "Transfer-Encoding: chunked"))
        tracemalloc.start()
        try:
            n_chunks = total // size
            for _ in range(n_chunks):
                await client.send(chunk)
            await client.send("0\r\n\r\n")
            assert (await client.response())[2] == f'{{"bytes": {n_chunks * size}}}\n'
            assert tracemalloc.get_traced_memory()[1] < 8_000_000
        finally:
            tracemalloc.stop()


async def test_a_client_that_waits_gets_a_100(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        head = request("POST", "/count", "Content-Length: 5", "Expect: 100-continue")
        await client.send(head)
        assert await client.head() == (100, {})
        await client.send("hello")
        assert (await client.response())[2] == '{"bytes": 5}\n'
        await client.send(head + "hello")  # one that does not wait
        assert (await client.head())[0] == 200


@pytest.mark.parametrize(
    "framing", ["Content-Length: 250000001", "Content-Length: 99999999999999999999"]
)
async def test_a_client_with_too_much_gets_a_413_and_no_100(tmp_path: Path, framing: str) -> None:
    async with connected(tmp_path, QUICK) as client:
        await client.send(request("POST", "/count", framing, "Expect: 100-continue"))
        status, headers, body = await client.response()
        assert (status, headers["connection"]) == (413, "close")
        assert "250000000 bytes" in body
        assert await client.is_closed()


async def test_a_body_in_chunks_is_refused_when_it_becomes_too_big(tmp_path: Path) -> None:
    chunk = f"{1_000_000:x}\r\n".encode() + bytes(1_000_000) + b"\r\n"
    async with connected(tmp_path) as client:
        await client.send(request("POST", "/count", "Transfer-Encoding: chunked"))
        with contextlib.suppress(ConnectionError):
            for _ in range(252):
                await client.send(chunk)
        assert (await client.head())[0] == 413


async def test_a_body_without_a_length_is_refused(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        await client.send(request("POST", "/count"))
        assert (await client.response())[0] == 411


async def test_a_body_that_stops_is_refused(tmp_path: Path) -> None:
    async with connected(tmp_path, QUICK) as client:
        await client.send(request("POST", "/count", "Content-Length: 10") + "hello")
        status, headers, _ = await client.response()
        assert (status, headers["connection"]) == (408, "close")
        assert await client.is_closed()


async def test_a_slow_body_is_awaited_as_long_as_it_goes_on(tmp_path: Path) -> None:
    async with connected(tmp_path, QUICK) as client:
        await client.send(request("POST", "/count", "Content-Length: 10"))
        clock = LoopClock()
        for _ in range(10):
            await clock.advance(0.6 * QUICK.body)
            await client.send("x")
        assert (await client.response())[2] == '{"bytes": 10}\n'


@pytest.mark.parametrize(
    "framing", ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n9\r\nhe"]
)
@pytest.mark.parametrize("path", ["/count", "/lines"])
async def test_a_client_may_leave_in_the_middle_of_a_body(
    tmp_path: Path, framing: str, path: str
) -> None:
    async with running_daemon(tmp_path, DaemonOptions(dialects=DIALECTS)) as daemon:
        for is_abrupt in (False, True):
            async with connect(daemon) as client:
                await client.send(f"POST {path} HTTP/1.1\r\nHost: x\r\n{framing}")
                await eventually(lambda: daemon.server.n_connections == 1)
                if not is_abrupt:
                    client.writer.write_eof()
                    assert await client.is_closed()
            await eventually(lambda: daemon.server.n_connections == 0)


@pytest.mark.parametrize(
    "chunks", ["x\r\n", "-1\r\n", "5\r\nhello!!\r\n", "3\r\nabc\r\n0\r\n\x00: x\r\n\r\n"]
)
async def test_chunks_that_are_wrong_are_refused(tmp_path: Path, chunks: str) -> None:
    async with connected(tmp_path, QUICK) as client:
        await client.send(request("POST", "/count", "Transfer-Encoding: chunked") + chunks)
        assert (await client.response())[0] == 400
        assert await client.is_closed()


async def test_two_lengths_are_refused(tmp_path: Path) -> None:
    async with connected(tmp_path, QUICK) as client:
        framing = ("Content-Length: 3", "Content-Length: 5")
        await client.send(request("POST", "/count", *framing) + "abc")
        assert (await client.response())[0] == 400


# Several requests on one connection.


async def test_a_connection_serves_one_request_after_the_other(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, connect(daemon) as client:
        for path, status in [("/healthz", 200), ("/app.js", 200), ("/nothing", 404)] * 3:
            await client.send(request("GET", path))
            assert (await client.response())[0] == status
        assert daemon.server.n_connections == 1
        await client.send(request("GET", "/healthz", "Connection: close"))
        status, headers, _ = await client.response()
        assert (status, headers["connection"]) == (200, "close")
        assert await client.is_closed()


async def test_requests_that_come_together_are_answered_in_order(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        counted = request("POST", "/count", "Content-Length: 3") + "abc"
        await client.send(request("GET", "/healthz") + counted + request("GET", "/nothing"))
        assert (await client.response())[2] == "ok\n"
        assert (await client.response())[2] == '{"bytes": 3}\n'
        assert (await client.response())[0] == 404


async def test_a_connection_without_requests_is_closed(tmp_path: Path) -> None:
    async with connected(tmp_path, QUICK) as client:
        assert await client.is_closed()
    async with connected(tmp_path, QUICK) as client:
        await client.send(request("GET", "/healthz"))
        await client.response()
        assert await client.is_closed()  # without another word


async def test_http_1_0_is_answered_and_closed(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        await client.send("GET /healthz HTTP/1.0\r\n\r\n")
        assert (await client.response())[2] == "ok\n"
        assert await client.is_closed()


async def test_a_small_body_that_no_one_reads_leaves_the_connection_usable(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        await client.send(request("GET", "/healthz", "Content-Length: 1000") + 1000 * "x")
        assert (await client.response())[2] == "ok\n"
        await client.send(request("GET", "/healthz"))
        assert (await client.response())[2] == "ok\n"


async def test_a_large_body_that_no_one_reads_does_not_hide_the_response(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        await client.send(request("POST", "/nothing", "Content-Length: 10000000"))
        sending = asyncio.create_task(client.send(10_000_000 * b"x"))
        status, headers, _ = await client.response()
        assert (status, headers["connection"]) == (404, "close")
        await sending
        client.writer.write_eof()
        assert await client.is_closed()


# Methods.


@pytest.mark.parametrize("path", ["/", "/app.js", "/healthz", "/readyz", "/metrics", "/nothing"])
async def test_head_is_get_without_the_body(tmp_path: Path, path: str) -> None:
    async with connected(tmp_path) as client:
        await client.send(request("GET", path))
        status, headers, body = await client.response()
        assert int(headers["content-length"]) == len(body.encode())
        await client.send(request("HEAD", path))
        got = await client.response(has_body=False)
        assert got == (status, headers | {"date": got[1]["date"]}, "")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/", "GET, HEAD"),
        ("PUT", "/app.js", "GET, HEAD"),
        ("OPTIONS", "/healthz", "GET, HEAD"),
        ("DELETE", "/metrics", "GET, HEAD"),
        ("GET", "/count", "POST, PUT"),
        ("PATCH", "/count", "POST, PUT"),
        ("POST", "/v1/stream", "GET"),
    ],
)
async def test_other_methods_are_refused_with_those_that_are_allowed(
    tmp_path: Path, method: str, path: str, allowed: str
) -> None:
    async with connected(tmp_path) as client:
        await client.send(request(method, path))
        status, headers, _ = await client.response()
        assert (status, headers["allow"]) == (405, allowed.lower())
        await client.send(request("GET", "/healthz"))
        assert (await client.response())[0] == 200


async def test_the_token_is_asked_for_before_the_body(tmp_path: Path) -> None:
    async with connected(tmp_path, token="secret") as client:
        head = ("Content-Length: 5", "Expect: 100-continue")
        await client.send(request("POST", "/count", *head))
        assert (await client.response())[0] == 401
    async with connected(tmp_path, token="secret") as client:
        await client.send(request("POST", "/count", *head, "Authorization: Bearer secret"))
        assert (await client.head())[0] == 100


# Heads.


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /healthz HTTP/1.1\r\n\r\n", 400),  # no host
        ("GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        ("GET /healthz\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\nNo colon\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
        ("POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("GET /" + 20_000 * "x", 431),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: " + 20_000 * "x", 431),
        ("GET / HTTP/1.1\r\nHost: x\r\n" + 200 * "A: b\r\n" + "\r\n", 431),
    ],
)
async def test_a_head_that_is_wrong_is_refused(tmp_path: Path, head: str, status: int) -> None:
    async with connected(tmp_path, QUICK) as client:
        await client.send(head)
        got, headers, _ = await client.response()
        assert (got, headers["connection"]) == (status, "close")
        assert await client.is_closed()


async def test_a_head_that_does_not_end_is_refused(tmp_path: Path) -> None:
    async with connected(tmp_path, QUICK) as client:
        await client.send("GET /healthz HTTP/1.1\r\nHost")
        assert (await client.response())[0] == 408
        assert await client.is_closed()


async def test_a_head_may_come_in_pieces(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        for byte in request("GET", "/healthz"):
            await client.send(byte)
            await asyncio.sleep(0)
        assert (await client.response())[2] == "ok\n"


# Upgrades.


UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


async def test_a_connection_is_upgraded_after_other_requests(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        await client.send(request("GET", "/healthz"))
        await client.response()
        start = b'{"type":"start"}'
        frame = bytes([0x81, 0x80 | len(start), 0, 0, 0, 0]) + start
        # The first message does not wait for the answer.
        await client.send(request("GET", "/v1/stream", *UPGRADE).encode() + frame)
        status, headers = await client.head()
        assert (status, headers["upgrade"], headers["connection"]) == (101, "websocket", "upgrade")
        accepted = hashlib.sha1(b"AAAAAAAAAAAAAAAAAAAAAA==258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
        expected = base64.b64encode(accepted.digest()).decode().lower()
        assert headers["sec-websocket-accept"] == expected
        assert "server" not in headers
        assert b'"type":"ready"' in await client.reader.read(200)


@pytest.mark.parametrize(
    ("without", "instead", "status"),
    [
        ("Upgrade: websocket", "Upgrade: h2c", 426),
        ("Connection: Upgrade", "X: y", 426),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8", 400),
        ("Sec-WebSocket-Version: 13", "X: y", 400),
        ("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Key: AAAA", 400),
        ("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "X: y", 400),
        ("Upgrade: websocket", "Upgrade: websocket\r\nContent-Length: 3\r\n\r\nabc", 426),
    ],
)
async def test_an_upgrade_that_is_wrong_is_refused(
    tmp_path: Path, without: str, instead: str, status: int
) -> None:
    lines = [instead if line == without else line for line in UPGRADE]
    async with connected(tmp_path, QUICK) as client:
        await client.send(request("GET", "/v1/stream", *lines))
        assert (await client.response())[0] == status


async def test_an_upgrade_with_a_body_is_refused(tmp_path: Path) -> None:
    async with connected(tmp_path, QUICK) as client:
        await client.send(request("GET", "/v1/stream", *UPGRADE, "Content-Length: 3") + "abc")
        assert (await client.response())[0] == 400


async def test_an_upgrade_to_something_else_is_ignored_where_there_is_a_page(
    tmp_path: Path,
) -> None:
    async with connected(tmp_path) as client:
        await client.send(request("GET", "/healthz", "Upgrade: h2c", "Connection: Upgrade"))
        assert (await client.response())[2] == "ok\n"
        await client.send(request("GET", "/healthz"))
        assert (await client.response())[2] == "ok\n"


# The end.


async def test_idle_connections_do_not_delay_the_stop(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, connect(daemon), connect(daemon) as client:
        await client.send(request("GET", "/healthz"))
        await client.response()
        await eventually(lambda: all(stream.is_idle for stream in daemon.server.connections))
        daemon.server.stop_listening()
        await daemon.server.wait_empty()


async def test_a_request_in_progress_is_the_last_one_when_the_server_stops(tmp_path: Path) -> None:
    options = DaemonOptions(dialects=DIALECTS)
    async with running_daemon(tmp_path, options) as daemon, connect(daemon) as client:
        await client.send(request("POST", "/count", "Content-Length: 5") + "he")
        await eventually(lambda: not any(each.is_idle for each in daemon.server.connections))
        daemon.server.stop_listening()
        await client.send("llo")
        assert (await client.response())[2] == '{"bytes": 5}\n'
        assert await client.is_closed()


async def test_a_client_that_does_not_read_the_response_is_cut_off(tmp_path: Path) -> None:
    quick = Timeouts(send=0.2, close=0.2)
    options = DaemonOptions(dialects=DIALECTS, timeouts=quick)
    async with running_daemon(tmp_path, options) as daemon, connect(daemon) as client:
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        with contextlib.suppress(ConnectionError):
            while daemon.server.n_connections:
                client.writer.write(request("GET", "/app.js").encode())
                await asyncio.sleep(0)
