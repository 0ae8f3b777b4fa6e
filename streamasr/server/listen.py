"""Listening: accepts connections, counts them, and ends them when the server stops.

Everything on the main socket is HTTP at first: pages, monitoring, and WebSockets after an upgrade.
Dialects without HTTP have sockets of their own.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

from streamasr.core.errors import ConfigError
from streamasr.host.session_host import SessionHost
from streamasr.protocols.dialect import Close, Dialect, RequestHead
from streamasr.protocols.v1_dialect import V1Dialect
from streamasr.server.access import Access
from streamasr.server.byte_stream import ByteStream
from streamasr.server.connection import ClientConnection
from streamasr.server.http import serve_http
from streamasr.server.routes import Site
from streamasr.server.sockets import bind_unix, set_limits
from streamasr.server.tcp import TcpTransport
from streamasr.server.timeouts import Timeouts
from streamasr.server.transport import DisconnectedError, Transport
from streamasr.server.web_assets import Page, load_pages
from streamasr.service.activation import Inherited

logger = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 128
"""Sockets at the same time; more are closed at once."""

_Serve: TypeAlias = Callable[[ByteStream], Coroutine[Any, Any, None]]


class Server:
    """Serves the sessions of one host. Its connections live inside `running`."""

    def __init__(
        self,
        host: SessionHost,
        *,
        access: Callable[[], Access],
        metrics: Callable[[], tuple[bytes, str]],
        dialects: Sequence[Dialect] = (V1Dialect(),),
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
    ) -> None:
        """Prepare.

        Args:
            host: has the sessions.
            access: returns what is allowed at present.
            metrics: returns the figures for Prometheus, and their content type.
            dialects: that are spoken over HTTP.
            timeouts: for clients.
        """
        self._host = host
        self._access = access
        self._metrics = metrics
        self._dialects = tuple(dialects)
        self._timeouts = timeouts
        self._pages = load_pages()
        self._servers: list[asyncio.Server] = []
        self._is_stopping = False
        self._connections: set[ByteStream] = set()
        self._transports: set[Transport] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._left = asyncio.Event()  # a connection was closed

    @property
    def n_connections(self) -> int:
        """Number of open sockets."""
        return len(self._connections)

    @property
    def connections(self) -> frozenset[ByteStream]:
        """Open sockets, those included on which nothing was requested yet."""
        return frozenset(self._connections)

    def stop_listening(self) -> None:
        """Accept no more connections, and close idle ones; the others stay."""
        self._is_stopping = True
        for server in self._servers:
            server.close()
        for stream in self._connections:
            if stream.is_idle:
                stream.abort()

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
        """Listen for HTTP; leaving the context ends all connections.

        Args:
            host: name or address.
            port: 0 takes a free one.
            path: of a Unix socket, in place of host and port.
            is_loopback: only this machine can connect.
            inherited: a socket that listens already, in place of all these; it stays.

        Yields:
            The address that clients connect to, as a URL.

        Raises:
            ConfigError: the server cannot listen there.
        """
        if inherited:
            host, path, is_loopback = inherited.host, None, inherited.is_local
        site = self._site(self._dialects, self._pages)
        server = await self._listen(host, port, path, inherited, partial(self._serve_http, site))
        try:
            place = server.sockets[0].getsockname()
            is_unix = server.sockets[0].family == socket.AF_UNIX
            site.loopback_port = None if is_unix or not is_loopback else place[1]
            await server.start_serving()
            yield (
                f"unix://{os.fsdecode(place)}" if is_unix else f"ws://{_bracketed(host)}:{place[1]}"
            )
        finally:
            await self._stop()
            if path:
                path.unlink(missing_ok=True)

    @asynccontextmanager
    async def running_http(
        self, dialects: Sequence[Dialect], host: str, port: int, *, is_loopback: bool
    ) -> AsyncIterator[int]:
        """Listen for dialects that need a port of their own, inside `running`.

        There are no pages, so that such a dialect may also serve `/`, or every path.

        Args:
            dialects: that are spoken there.
            host: name or address.
            port: 0 takes a free one.
            is_loopback: only this machine can connect.

        Yields:
            The port.

        Raises:
            ConfigError: the server cannot listen there.
        """
        site = self._site(tuple(dialects), {})
        server = await self._listen(host, port, None, None, partial(self._serve_http, site))
        try:
            port = server.sockets[0].getsockname()[1]
            site.loopback_port = port if is_loopback else None
            await server.start_serving()
            yield port
        finally:
            server.close()

    @asynccontextmanager
    async def running_tcp(self, dialect: Dialect, host: str, port: int) -> AsyncIterator[int]:
        """Listen for a dialect without HTTP, inside `running`.

        Args:
            dialect: of all clients there. They show no tokens, so they should be local.
            host: name or address.
            port: 0 takes a free one.

        Yields:
            The port.

        Raises:
            ConfigError: the server cannot listen there.
        """

        async def serve(stream: ByteStream) -> None:
            transport = TcpTransport(stream, self._timeouts)
            await self._converse(transport, dialect, RequestHead())

        server = await self._listen(host, port, None, None, serve)
        try:
            await server.start_serving()
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    # Listening.

    async def _listen(
        self, host: str, port: int, path: Path | None, inherited: Inherited | None, serve: _Serve
    ) -> asyncio.Server:
        """Open a listening socket; it accepts no connections yet."""

        def make_stream() -> ByteStream:
            return ByteStream(lambda stream: self._opened(stream, serve), self._closed)

        create = partial(asyncio.get_running_loop().create_server, make_stream, start_serving=False)
        try:
            if inherited:
                server = await create(sock=inherited.socket)
            elif path:
                server = await create(sock=bind_unix(path))
            else:
                server = await create(host, port)
        except OSError as error:
            place = str(path) if path else f"{host}:{port}"
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigError(
                f"cannot listen on {place}: {reason}.", code="cannot_listen"
            ) from error
        for listening in server.sockets:
            set_limits(listening)
        self._servers.append(server)
        return server

    def _site(self, dialects: tuple[Dialect, ...], pages: Mapping[str, Page]) -> Site:
        return Site(
            dialects=dialects,
            pages=pages,
            access=self._access,
            metrics=self._metrics,
            is_ready=self._host.is_ready.is_set,
            is_stopping=lambda: self._is_stopping,
            converse=self._converse,
            timeouts=self._timeouts,
        )

    # Serving.

    async def _serve_http(self, site: Site, stream: ByteStream) -> None:
        await serve_http(stream, self._timeouts, site.handle, lambda: self._is_stopping)

    def _opened(self, stream: ByteStream, serve: _Serve) -> None:
        self._connections.add(stream)
        if len(self._connections) > MAX_CONNECTIONS:
            stream.abort()
            return
        task = asyncio.create_task(_serve_safely(serve, stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _closed(self, stream: ByteStream) -> None:
        self._connections.discard(stream)
        self._left.set()

    async def _converse(self, transport: Transport, dialect: Dialect, request: RequestHead) -> None:
        """Serve a client until its connection is closed."""
        self._transports.add(transport)
        try:
            await ClientConnection(transport, dialect, request, self._host, self._timeouts).run()
        finally:
            self._transports.discard(transport)

    # Stopping.

    async def _stop(self) -> None:
        """End all connections, whatever they are doing."""
        self.stop_listening()
        going_away = Close(1001, "the daemon is stopping")
        closing = [asyncio.create_task(each.close(going_away)) for each in self._transports]
        if closing:
            await asyncio.wait(closing, timeout=self._timeouts.close)
        for stream in self._connections:
            stream.abort()
        tasks = [*closing, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()


async def _serve_safely(serve: _Serve, stream: ByteStream) -> None:
    """Serve a connection, and close it in any case."""
    try:
        await serve(stream)
    except DisconnectedError:
        logger.debug("connection %s was lost", stream.name)
    except Exception:  # outermost frame of a connection: the others continue
        logger.exception("connection %s failed", stream.name)
    finally:
        stream.abort()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
