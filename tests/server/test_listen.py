"""Listening: access, pages for monitors, limits, and the end."""

import asyncio
import contextlib
import logging
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from websockets.asyncio.client import connect as websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from streamasr.client import connect
from streamasr.core.errors import ConfigError
from streamasr.core.refusal import RefusalError
from streamasr.protocols import v1
from streamasr.server.access import Access
from streamasr.server.listen import MAX_CONNECTIONS
from streamasr.server.timeouts import Timeouts
from tests.support.errors import raises
from tests.support.fake_daemon import Client, DaemonOptions, FakeDaemon, hang_up, running_daemon
from tests.support.fakes import PatientEngine
from tests.support.signals import speechlike
from tests.support.waiting import eventually

TOKEN = "correct-horse"


@pytest.fixture(autouse=True)
def _quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Requests from outside cause neither a warning nor a traceback in the log."""
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def request(daemon: FakeDaemon, text: str | bytes) -> tuple[int, dict[str, str], str]:
    """Send bytes; return status, headers by lower-case names, and body of the answer."""
    host, port = daemon.address.removeprefix("ws://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text.encode() if isinstance(text, str) else text)
    answer = await reader.read()
    await hang_up(writer)
    head, _, body = answer.decode("latin-1").partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]) if first else 0, headers, body


async def get(daemon: FakeDaemon, path: str, *headers: str) -> tuple[int, dict[str, str], str]:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    return await request(daemon, "\r\n".join(lines))


async def status_of(daemon: FakeDaemon, path: str = v1.STREAM_PATH, **options: object) -> int:
    """Return 101 if a WebSocket opens, else the status of the refusal."""
    try:
        async with websocket(daemon.url(path), **options):  # type: ignore[arg-type]
            return 101
    except InvalidStatus as error:
        return error.response.status_code


# Pages.


@pytest.mark.parametrize(
    ("path", "status", "content_type", "part"),
    [
        ("/healthz", 200, "text/plain; charset=utf-8", "ok\n"),
        ("/readyz", 200, "text/plain; charset=utf-8", "ok\n"),
        ("/readyz?verbose", 200, "text/plain; charset=utf-8", "ok\n"),
        ("/metrics", 200, "text/plain; version=0.0.4", "streamasr_sessions 1.0\n"),
        ("/nothing", 404, "text/plain; charset=utf-8", "no such page"),
        ("/v1/stream/", 404, "text/plain; charset=utf-8", "no such page"),
        ("/v1/stream", 426, "text/plain; charset=utf-8", "WebSocket"),
    ],
)
async def test_pages_for_monitors(
    tmp_path: Path, path: str, status: int, content_type: str, part: str
) -> None:
    async with running_daemon(tmp_path) as daemon:
        got, headers, body = await get(daemon, path)
        assert (got, headers["content-type"]) == (status, content_type)
        assert part in body
        assert headers["content-length"] == str(len(body))
        assert "server" not in headers
        if status != 426:  # that one is of the library
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert headers["cache-control"] == "no-store"


async def test_the_server_is_alive_before_it_is_ready(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, DaemonOptions(is_ready=False)) as daemon:
        assert (await get(daemon, "/healthz"))[0] == 200
        assert (await get(daemon, "/readyz"))[0] == 503
        async with Client.connect(daemon) as client:
            await client.send_message("start")
            daemon.host.is_ready.set()
            await client.receive("ready")
        assert (await get(daemon, "/readyz"))[0] == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
        b"GET //[::1 HTTP/1.1\r\nHost: [\r\n\r\n",
        b"GET http://[/ HTTP/1.1\r\n\r\n",
        b"GET /v1/events?%ff=%f0&&=;&token=%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/stream HTTP/1.1\r\nOrigin: \xff\xfe://\r\n\r\n",
        b"GET /v1/stream HTTP/1.1\r\nOrigin: http://[::1\r\nOrigin: x\r\n\r\n",
        b"GET /v1/stream HTTP/1.1\r\nAuthorization: \xe9\r\n\r\n",
        b"GET /v1/stream HTTP/1.1\r\nAuthorization: Bearer \xe9\xff\r\n\r\n",
        b"GET /v1/stream HTTP/1.1\r\nSec-WebSocket-Protocol: bearer\r\n\r\n",
        b"GET /v1/stream HTTP/1.1\r\nSec-WebSocket-Protocol: ,,\xff, bearer,\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        b"GET /v1/stream HTTP/1.1\r\nNo colon\r\n\r\n",
        b"GET /v1/stream HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /" + 9000 * b"x" + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + 200 * b"A: b\r\n" + b"\r\n",
    ],
)
@pytest.mark.parametrize("token", [None, TOKEN])
async def test_garbage_is_refused_without_a_warning_in_the_log(
    tmp_path: Path, garbage: bytes, token: str | None
) -> None:
    options = DaemonOptions(token=token, timeouts=Timeouts(start=0.2, idle=0.2))
    async with running_daemon(tmp_path, options) as daemon:
        status, _, body = await request(daemon, garbage)
        assert status == 0 or status >= 400
        assert "Traceback" not in body
        assert (await get(daemon, "/healthz"))[0] == 200


# Tokens.


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/events?session=microphone", "/metrics"])
async def test_without_the_token_a_client_is_refused(tmp_path: Path, path: str) -> None:
    async with running_daemon(tmp_path, DaemonOptions(token=TOKEN)) as daemon:
        status, headers, _ = await get(daemon, path)
        assert (status, headers["www-authenticate"]) == (401, "bearer")
        for wrong in ("", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é"):
            header = f"Authorization: Bearer {wrong}"
            assert (await get(daemon, path, header))[0] == 401
        for header in (f"Authorization: Basic {TOKEN}", f"Cookie: token={TOKEN}"):
            assert (await get(daemon, path, header))[0] == 401
        assert (await get(daemon, "/healthz"))[0] == 200


async def test_the_token_may_be_shown_in_three_ways(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, DaemonOptions(token=TOKEN)) as daemon:
        for scheme in ("Bearer", "bearer"):
            header = {"Authorization": f"{scheme} {TOKEN}"}
            assert await status_of(daemon, additional_headers=header) == 101
        offered = [Subprotocol(name) for name in ("streamasr.v1", "bearer", TOKEN)]
        async with websocket(daemon.url(), subprotocols=offered) as connection:
            assert connection.subprotocol == "streamasr.v1"
        events = "/v1/events?session=microphone&token="
        assert await status_of(daemon, events + TOKEN) == 101
        assert await status_of(daemon, events + "x") == 401
        assert await status_of(daemon, f"/v1/stream?token={TOKEN}") == 401
        assert (await get(daemon, f"/metrics?token={TOKEN}"))[0] == 401
        assert (await get(daemon, "/metrics", f"Authorization: Bearer {TOKEN}"))[0] == 200


async def test_our_own_client_shows_its_token(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, DaemonOptions(token=TOKEN)) as daemon:
        async with connect(daemon.address, token=TOKEN) as stream:
            await stream.stop()
            assert isinstance([event async for event in stream][-1], v1.End)
        with raises(RefusalError, "http_401"):
            async with connect(daemon.address, token="wrong"):
                pass


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(None, None), (["streamasr.v1"], "streamasr.v1"), (["x", "streamasr.v1"], "streamasr.v1")],
)
async def test_the_subprotocol_is_ours_or_none(
    tmp_path: Path, offered: list[Subprotocol] | None, chosen: str | None
) -> None:
    async with (
        running_daemon(tmp_path) as daemon,
        websocket(daemon.url(), subprotocols=offered) as connection,
    ):
        assert connection.subprotocol == chosen


# Web pages.


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 101),
        ("http://localhost:{port}", 101),
        ("http://127.0.0.1:{port}", 101),
        ("https://[::1]:{port}", 101),
        ("https://listed.example", 101),
        ("http://listed.example", 403),
        ("http://localhost", 403),
        ("http://localhost:1", 403),
        ("http://evil.example:{port}", 403),
        ("http://localhost:{port}.evil.example", 403),
        ("ftp://localhost:{port}", 403),
        ("null", 403),
        ("file://", 403),
        ("", 403),
        ("http://", 403),
    ],
)
async def test_foreign_web_pages_are_refused(
    tmp_path: Path, origin: str | None, status: int
) -> None:
    options = DaemonOptions(origins=frozenset({"https://listed.example"}))
    async with running_daemon(tmp_path, options) as daemon:
        port = daemon.address.rsplit(":", 1)[1]
        headers = {} if origin is None else {"Origin": origin.format(port=port)}
        for path in (v1.STREAM_PATH, v1.EVENTS_PATH):
            assert await status_of(daemon, path, additional_headers=headers) == status
        if status == 403:
            assert (await get(daemon, "/metrics", f"Origin: {headers['Origin']}"))[0] == 403


async def test_a_page_whose_name_points_to_our_address_is_refused(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        port = daemon.address.rsplit(":", 1)[1]
        lines = [f"GET {v1.STREAM_PATH} HTTP/1.1", f"Host: evil.example:{port}"]
        lines += [f"Origin: http://evil.example:{port}", "", ""]
        assert (await request(daemon, "\r\n".join(lines)))[0] == 403


async def test_beyond_loopback_our_own_page_has_the_name_of_the_host_header(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, DaemonOptions(is_loopback=False)) as daemon:
        place = daemon.address.removeprefix("ws://")
        for origin, status in ((f"http://{place}", 101), ("http://evil.example", 403)):
            headers = {"Origin": origin}
            assert await status_of(daemon, additional_headers=headers) == status


def test_the_token_is_not_shown_in_the_representation() -> None:
    assert TOKEN not in repr(Access(TOKEN))


# A Unix socket.


async def test_a_unix_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "run" / "streamasr.sock"
    async with running_daemon(tmp_path, DaemonOptions(socket=path)) as daemon:
        assert daemon.address == f"unix://{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        async with connect(daemon.address) as stream:
            await stream.send(speechlike(32_000))
            await stream.stop()
            kinds = [type(event) async for event in stream]
            assert kinds.count(v1.Final) == 1
        async with Client.start(daemon) as client:
            assert (await client.stop())[-1]["type"] == "end"
    assert not path.exists()


async def test_the_socket_of_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "streamasr.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with running_daemon(tmp_path, DaemonOptions(socket=path)) as daemon, Client.start(daemon):
        pass


async def test_the_socket_of_a_running_program_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "streamasr.sock"
    async with running_daemon(tmp_path, DaemonOptions(socket=path)) as daemon:
        with raises(ConfigError, "socket_in_use"):
            async with running_daemon(tmp_path / "other", DaemonOptions(socket=path)):
                pass
        async with Client.start(daemon):
            pass


@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_a_path_that_is_not_a_socket_is_not_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "precious"
    path.write_text("data") if kind == "file" else path.mkdir()
    with raises(ConfigError, "not_a_socket"):
        async with running_daemon(tmp_path / "daemon", DaemonOptions(socket=path)):
            pass
    assert path.exists()


async def test_a_port_that_is_in_use_is_an_error(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        port = int(daemon.address.rsplit(":", 1)[1])
        other = FakeDaemon(tmp_path / "other", DaemonOptions())
        with raises(ConfigError, "cannot_listen") as caught:
            async with other.server.running("127.0.0.1", port, None, is_loopback=True):
                pass
        assert f"127.0.0.1:{port}" in str(caught.value)


# Limits, and the end.


async def test_connections_are_limited_and_accepted_again_when_others_close(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon, Client.start(daemon) as first:
        port = int(daemon.address.rsplit(":", 1)[1])
        crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        for reader, _ in crowd[MAX_CONNECTIONS:]:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        assert daemon.server.n_connections == MAX_CONNECTIONS
        await first.send_audio(speechlike(32_000))
        assert (await first.stop())[-1]["segments"] == 1
        for _, writer in crowd:
            await hang_up(writer)
        await eventually(lambda: daemon.server.n_connections == 0)
        async with Client.start(daemon) as late:
            assert (await late.stop())[-1]["type"] == "end"


async def hold_back(daemon: FakeDaemon, client: Client) -> None:
    """Send audio until the server reads no more of it."""
    with contextlib.suppress(ConnectionClosed):
        await client.send_audio(np.tile(speechlike(64_000), 100))


async def test_the_server_stops_in_time_with_clients_in_any_state(tmp_path: Path) -> None:
    options = DaemonOptions(engine=PatientEngine(), max_lag_s=1.0, timeouts=Timeouts(close=0.2))
    async with contextlib.AsyncExitStack() as clients:
        async with running_daemon(tmp_path, options) as daemon:
            port = int(daemon.address.rsplit(":", 1)[1])
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /v1/str")  # says no more
            await clients.enter_async_context(Client.connect(daemon))  # neither does this one
            idle = await clients.enter_async_context(Client.start(daemon))
            busy = await clients.enter_async_context(Client.start(daemon))
            speaking = asyncio.create_task(hold_back(daemon, busy))
            live = daemon.sessions.find(busy.session)
            await eventually(lambda: not live.intake.has_room(daemon.max_lag))
            listener = Client.connect(daemon, f"/v1/events?session={busy.session}")
            listening = await clients.enter_async_context(listener)
            await listening.receive("ready")
            daemon.server.stop_listening()
            with pytest.raises(ConnectionError):
                await asyncio.open_connection("127.0.0.1", port)
            await idle.send_message("ping")
            await idle.receive("pong")  # those who are here may stay until the end
        assert daemon.server.n_connections == 0
        await idle.receive_all()
        assert idle.connection.close_code == 1001
        await listening.receive_all()
        assert listening.connection.close_code == 1001
        await speaking
        await hang_up(writer)


async def test_a_client_that_waits_for_the_models_does_not_delay_the_stop(tmp_path: Path) -> None:
    async with running_daemon(tmp_path, DaemonOptions(is_ready=False)) as daemon:
        client = await websocket(daemon.url())
        await client.send('{"type": "start"}')
        await eventually(lambda: daemon.server.n_connections == 1)
    await client.wait_closed()
    assert client.close_code == 1001


async def test_the_server_can_wait_until_all_connections_are_closed(tmp_path: Path) -> None:
    async with running_daemon(tmp_path) as daemon:
        async with Client.start(daemon) as client:
            waiting = asyncio.create_task(daemon.server.wait_empty())
            await client.send_message("ping")
            await client.receive("pong")
            assert not waiting.done()
        await waiting
