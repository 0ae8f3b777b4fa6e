"""The sockets: who may come in, how many, and a few pages for monitors.

What is said once a WebSocket is open is the matter of `streamasr.server.connection`.
"""

import asyncio
import http
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.server import Server as WebSocketServer
from websockets.asyncio.server import ServerConnection, serve, unix_serve
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol

from streamasr.core.errors import ConfigError
from streamasr.host.session_host import SessionHost
from streamasr.protocols import v1
from streamasr.protocols.dialect import RequestHead
from streamasr.protocols.v1_dialect import V1Dialect
from streamasr.server.access import Access
from streamasr.server.connection import ClientConnection, Timeouts
from streamasr.server.web_assets import HEADERS, Page, load_pages
from streamasr.server.websocket import WebSocket
from streamasr.service.activation import Inherited

logger = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 128
"""Sockets at a time; more are closed unheard."""

_HARD_LIMIT: Final = 2 * v1.MAX_AUDIO_BYTES
"""Larger frames are refused before they are read; smaller ones with a sentence that says why."""

_MAX_FRAMES: Final = 4
"""Frames of a connection that may wait to be looked at; a few hard limits are the most memory that
it can take."""

_RECEIVE_BUFFER: Final = 64 * 1024
"""Bytes that the kernel hands over at once. A flood of tiny frames is parsed in portions of
this size, so that it cannot hold the loop for long."""

_GONE_AFTER_S: Final = 60.0
"""A machine that has not even acknowledged what was sent for so long is gone. That a program does
not answer pings says less: its pongs are not read while there is too much audio before them."""

_PING_EVERY_S: Final = 20.0


class Server:
    """Serves one house; its connections live inside `running`."""

    def __init__(
        self,
        host: SessionHost,
        *,
        access: Callable[[], Access],
        metrics: Callable[[], tuple[bytes, str]],
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    ) -> None:
        """Prepare.

        Args:
            host: has the sessions.
            access: returns what is allowed at present.
            metrics: returns the figures for Prometheus, and their content type.
            timeouts: for clients.
        """
        self._host = host
        self._access = access
        self._metrics = metrics
        self._dialect = V1Dialect()
        self._timeouts = timeouts
        self._connections: set[ServerConnection] = set()
        self._visits: set[asyncio.Task[None]] = set()
        self._left = asyncio.Event()  # a connection was closed
        self._loopback_port: int | None = None
        self._server: WebSocketServer | None = None
        self._pages = load_pages()

    @property
    def n_connections(self) -> int:
        """Open sockets."""
        return len(self._connections)

    @property
    def connections(self) -> frozenset[ServerConnection]:
        """Open sockets, those included on which no WebSocket is open yet."""
        return frozenset(self._connections)

    def stop_listening(self) -> None:
        """Take no more connections; those that are open stay."""
        if self._server:
            self._server.close(close_connections=False)

    async def wait_empty(self) -> None:
        """Wait until every connection is closed."""
        while self._connections:
            self._left.clear()
            await self._left.wait()

    @asynccontextmanager
    async def running(
        self,
        host: str,
        port: int,
        path: Path | None,
        *,
        is_loopback: bool,
        inherited: Inherited | None = None,
    ) -> AsyncIterator[str]:
        """Listen; leaving the context ends all connections.

        Args:
            host: name or address.
            port: 0 takes any that is free.
            path: of a Unix socket, in place of host and port.
            is_loopback: whether only this machine can connect.
            inherited: a socket that listens already, in place of all these. It stays.

        Yields:
            Where it listens, as a URL.

        Raises:
            ConfigError: it cannot listen there.
        """
        if inherited:
            host, path, is_loopback = inherited.host, None, inherited.is_local
        try:
            if inherited:
                server = await self._listen_on(inherited.socket)
            else:
                server = await (self._listen_unix(path) if path else self._listen_tcp(host, port))
        except OSError as error:
            where = str(path) if path else f"{host}:{port}"
            why = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigError(f"cannot listen on {where}: {why}.") from error
        self._server = server
        place = server.sockets[0].getsockname()
        try:
            if server.sockets[0].family == socket.AF_UNIX:
                yield f"unix://{os.fsdecode(place)}"
            else:
                self._loopback_port = place[1] if is_loopback else None
                yield f"ws://{f'[{host}]' if ':' in host else host}:{place[1]}"
        finally:
            self.stop_listening()
            await self._send_home()
            await server.wait_closed()
            if path:
                path.unlink(missing_ok=True)

    async def _send_home(self) -> None:
        """End all connections, whatever they are doing."""
        closing = [
            asyncio.create_task(connection.close(1001, "the daemon is stopping"))
            for connection in self._connections
            if connection.state is State.OPEN
        ]
        if closing:
            await asyncio.wait(closing, timeout=self._timeouts.close)
        for connection in self._connections:
            connection.transport.abort()
        for task in (*closing, *self._visits):
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)

    # Listening.

    async def _listen_tcp(self, host: str, port: int) -> WebSocketServer:
        server = await serve(self._serve, host, port, **self._options())
        for listening in server.sockets:
            _set_limits(listening)
        return server

    async def _listen_on(self, listening: socket.socket) -> WebSocketServer:
        _set_limits(listening)
        # Not `unix_serve`, which would remove the socket's file at the end.
        return await serve(self._serve, sock=listening, **self._options())

    async def _listen_unix(self, path: Path) -> WebSocketServer:
        _remove_stale_socket(path)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Nobody can connect before `listen`, so the mode is right from the first moment.
            listening.bind(str(path))
            path.chmod(0o600)
            _set_limits(listening)
            return await unix_serve(self._serve, sock=listening, **self._options())
        except BaseException:
            listening.close()
            raise

    def _options(self) -> dict[str, Any]:
        return {
            "process_request": self._answer,
            "select_subprotocol": _select_subprotocol,
            "compression": None,
            "server_header": None,
            "max_size": _HARD_LIMIT,
            "max_queue": _MAX_FRAMES,
            "open_timeout": self._timeouts.start,
            "close_timeout": self._timeouts.close,
            "ping_interval": _PING_EVERY_S,
            "ping_timeout": None,
            "create_connection": self._connection_class(),
        }

    def _connection_class(self) -> Callable[..., ServerConnection]:
        connections, left = self._connections, self._left

        class CountedConnection(ServerConnection):
            """A connection that is closed at once when there are too many."""

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                connections.add(self)
                super().connection_made(transport)
                if len(connections) > MAX_CONNECTIONS:
                    self.transport.abort()

            def connection_lost(self, exc: Exception | None) -> None:
                connections.discard(self)
                left.set()
                super().connection_lost(exc)

        return CountedConnection

    # Serving.

    async def _serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        task = asyncio.current_task()
        assert task is not None
        self._visits.add(task)
        try:
            transport = WebSocket(connection, self._timeouts.close)
            head = _head(connection.request)
            await ClientConnection(transport, self._dialect, head, self._host, self._timeouts).run()
        finally:
            self._visits.discard(task)

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        response = self._answer_request(connection, request)
        # Before version 17, websockets knows no method, and refuses all but GET.
        if response and getattr(request, "method", "GET") == "HEAD":
            response.body = b""  # what its headers say of it stays
        return response

    def _answer_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer plain HTTP, and refuse who may not connect; None lets the WebSocket open."""
        head = _head(request)
        path = head.path
        if page := self._pages.get(path):
            return _file(connection, request, page)
        if path in ("/healthz", "/readyz"):
            return self._answer_page(connection, path)
        if path not in (v1.STREAM_PATH, v1.EVENTS_PATH, "/metrics"):
            return _page(connection, http.HTTPStatus.NOT_FOUND, "there is no such page\n")
        access = self._access()
        if not access.admits_page(head, self._loopback_port):
            message = "this web page may not connect; see allow_origin in the configuration\n"
            return _page(connection, http.HTTPStatus.FORBIDDEN, message)
        if not access.admits_token(self._dialect.tokens(head)):
            response = _page(connection, http.HTTPStatus.UNAUTHORIZED, "the token is missing\n")
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        if path == "/metrics":
            body, content_type = self._metrics()
            return _page(connection, http.HTTPStatus.OK, body.decode(), content_type)
        return None

    def _answer_page(self, connection: ServerConnection, path: str) -> Response:
        if path == "/readyz" and not self._host.is_ready.is_set():
            return _page(connection, http.HTTPStatus.SERVICE_UNAVAILABLE, "loading\n")
        return _page(connection, http.HTTPStatus.OK, "ok\n")


def _set_limits(listening: socket.socket) -> None:
    """For the connections, which inherit what is set here."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    if listening.family != socket.AF_UNIX:
        gone_after_ms = round(_GONE_AFTER_S * 1000)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, gone_after_ms)


def _remove_stale_socket(path: Path) -> None:
    """Remove the socket of a daemon that is dead; one that lives is left alone."""
    if not path.is_socket():
        if path.exists():
            raise ConfigError(f"{path} is no socket: it would have to go first.")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
        else:
            raise ConfigError(f"another program listens on {path} already.")


def _select_subprotocol(_: ServerConnection, offered: Sequence[str]) -> Subprotocol | None:
    # None where ours is not offered: many clients offer nothing, and that is fine.
    return Subprotocol(v1.SUBPROTOCOL) if v1.SUBPROTOCOL in offered else None


def _page(
    connection: ServerConnection, status: http.HTTPStatus, body: str, content_type: str = ""
) -> Response:
    """A page that runs nothing, is kept nowhere, and is what it says it is."""
    response = connection.respond(status, body)
    if content_type:
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = content_type
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"
    response.headers["Cache-Control"] = "no-store"
    return response


def _file(connection: ServerConnection, request: Request, page: Page) -> Response:
    """A file of the web client, unless the browser has it already."""
    is_known = page.etag in request.headers.get_all("If-None-Match")
    response = connection.respond(
        http.HTTPStatus.NOT_MODIFIED if is_known else http.HTTPStatus.OK, ""
    )
    del response.headers["Content-Type"]
    del response.headers["Content-Length"]
    response.headers.update(HEADERS)
    response.headers["ETag"] = page.etag
    if not is_known:
        response.headers["Content-Type"] = page.content_type
        response.headers["Content-Length"] = str(len(page.body))
        response.body = page.body
    return response


def _head(request: Request) -> RequestHead:
    headers = tuple((name.lower(), value) for name, value in request.headers.raw_items())
    return RequestHead(request.method, request.path, headers)
