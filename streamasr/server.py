"""The sockets: WebSocket connections in, messages out, and a few pages for monitors.

A connection is two loops: one reads audio and wishes and waits while the session has enough to do,
so that TCP holds the client back; the other sends what the session publishes. Neither waits for
another connection. What a client did wrong is said in an `error` message before its connection
is closed; its session waits for a better one.
"""

import asyncio
import contextlib
import hmac
import http
import logging
import re
import socket
import urllib.parse
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from websockets.asyncio.server import Server as WebSocketServer
from websockets.asyncio.server import ServerConnection, serve, unix_serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from streamasr.audio.pcm import PcmDecoder
from streamasr.errors import AudioError, ConfigError, StreamASRError
from streamasr.live import SLICE, LiveSession, Reader
from streamasr.protocols import v1
from streamasr.sessions import Sessions
from streamasr.units import Float32Array, Samples

logger = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 128
"""Sockets at a time; more are closed unheard."""

_FIRST_MESSAGE_S: Final = 10.0
_SEND_PATIENCE_S: Final = 30.0
"""How long a single message may wait for a reader that takes nothing."""

_MAX_OWN_BACKLOG: Final = 64
"""Messages that may wait for a client; with more, its audio is not read."""

_HARD_LIMIT: Final = 4 * v1.MAX_AUDIO_BYTES
"""Larger frames are refused before they are read; smaller ones with a sentence that says why."""

_RECEIVE_BUFFER: Final = 64 * 1024
"""Bytes that the kernel hands over at once. A flood of tiny frames is parsed in portions of
this size, so that it cannot hold the loop for long."""

_LOOPBACK_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>streamasr</title>
<p>streamasr is running. Clients connect to <code>/v1/stream</code> and <code>/v1/events</code>;
its state is at <a href="/healthz">/healthz</a>, <a href="/readyz">/readyz</a>
and <a href="/metrics">/metrics</a>.</p>
"""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect."""

    token: str | None = None
    origins: frozenset[str] = frozenset()
    """Besides our own."""


class House(Protocol):
    """What the server needs of the daemon."""

    sessions: Sessions
    access: Access
    model: str
    max_lag: Samples
    is_ready: asyncio.Event

    def begin(self, start: v1.Start) -> LiveSession:
        """Begin a session.

        Raises:
            RefusalError: there is no room.
            StreamASRError: a wish that cannot be fulfilled.
        """

    def configure(self, session: LiveSession, wishes: v1.Configure | v1.Start) -> None:
        """Change a session's wishes; raises as `begin`."""

    def metrics(self) -> tuple[bytes, str]:
        """The figures for Prometheus, and their content type."""


class Server:
    """Serves one house; its connections live inside `running`."""

    def __init__(self, house: House) -> None:
        """Prepare."""
        self._house = house
        self._n_connections = 0
        self._left = asyncio.Event()  # a connection was closed
        self._is_loopback = True
        self._port = 0
        self._server: WebSocketServer | None = None

    @property
    def n_connections(self) -> int:
        """Open sockets."""
        return self._n_connections

    def stop_listening(self) -> None:
        """Take no more connections; those that are open stay."""
        if self._server:
            self._server.close(close_connections=False)

    async def wait_empty(self) -> None:
        """Wait until every connection is closed."""
        while self._n_connections:
            self._left.clear()
            await self._left.wait()

    @asynccontextmanager
    async def running(
        self, host: str, port: int, path: Path | None, *, is_loopback: bool
    ) -> AsyncIterator[str]:
        """Listen; leaving the context ends all connections.

        Args:
            host: name or address.
            port: 0 takes any that is free.
            path: of a Unix socket, in place of host and port.
            is_loopback: whether only this machine can connect.

        Yields:
            Where it listens, as a URL.

        Raises:
            ConfigError: it cannot listen there.
        """
        self._is_loopback = is_loopback
        options: dict[str, Any] = {
            "process_request": self._answer_request,
            "select_subprotocol": _select_subprotocol,
            "compression": None,
            "server_header": None,
            "max_size": _HARD_LIMIT,
            "max_queue": 8,
            "open_timeout": 10,
            "close_timeout": 5,
            "create_connection": self._connection_class(),
        }
        try:
            server = await (
                _listen_unix(self._serve, path, options)
                if path
                else _listen_tcp(self._serve, host, port, options)
            )
        except OSError as error:
            where = str(path) if path else f"{host}:{port}"
            raise ConfigError(f"cannot listen on {where}: {error.strerror or error}.") from error
        self._server = server
        try:
            if path:
                yield f"unix://{path}"
            else:
                self._port = next(iter(server.sockets)).getsockname()[1]
                shown = f"[{host}]" if ":" in host else host
                yield f"ws://{shown}:{self._port}"
        finally:
            server.close(code=1001, reason="the daemon is stopping")
            await server.wait_closed()
            if path:
                path.unlink(missing_ok=True)

    def _connection_class(self) -> Callable[..., ServerConnection]:
        server = self

        class CountedConnection(ServerConnection):
            """A connection that is closed at once when there are too many."""

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                server._n_connections += 1
                super().connection_made(transport)
                if server._n_connections > MAX_CONNECTIONS:
                    self.transport.abort()

            def connection_lost(self, exc: Exception | None) -> None:
                server._n_connections -= 1
                server._left.set()
                super().connection_lost(exc)

        return CountedConnection

    def _answer_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer plain HTTP, and refuse who may not connect; None lets the WebSocket open."""
        path, query = _split_target(request)
        if path in ("/healthz", "/readyz", "/"):
            return self._answer_page(connection, path)
        if path not in (v1.STREAM_PATH, v1.EVENTS_PATH, "/metrics"):
            return connection.respond(http.HTTPStatus.NOT_FOUND, "there is no such page\n")
        if not self._is_origin_allowed(request):
            message = "this web page may not connect; see allow_origin in the configuration\n"
            return connection.respond(http.HTTPStatus.FORBIDDEN, message)
        token = self._house.access.token
        in_query = query.get("token", []) if path == v1.EVENTS_PATH else []
        if token is not None and not _shows_token(request, in_query, token):
            response = connection.respond(http.HTTPStatus.UNAUTHORIZED, "the token is missing\n")
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        if path == "/metrics":
            body, content_type = self._house.metrics()
            return _page(connection, body, content_type)
        return None

    def _answer_page(self, connection: ServerConnection, path: str) -> Response:
        if path == "/":
            response = _page(connection, _PAGE.encode(), "text/html; charset=utf-8")
            response.headers["Content-Security-Policy"] = "default-src 'none'"
            return response
        if path == "/readyz" and not self._house.is_ready.is_set():
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "loading\n")
        return connection.respond(http.HTTPStatus.OK, "ok\n")

    def _is_origin_allowed(self, request: Request) -> bool:
        origins = request.headers.get_all("Origin")
        if not origins:
            return True  # a native client
        if len(origins) > 1:
            return False
        [origin] = origins
        if origin in self._house.access.origins:
            return True
        scheme, _, netloc = origin.partition("://")
        if scheme not in ("http", "https"):
            return False
        if self._is_loopback:
            # Never what the Host header says: a page may give its own name our address.
            return netloc in {f"{name}:{self._port}" for name in _LOOPBACK_NAMES}
        return netloc != "" and netloc == request.headers.get("Host")

    async def _serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        path, query = _split_target(connection.request)
        try:
            if path == v1.STREAM_PATH:
                await self._serve_stream(connection)
            else:
                await self._serve_events(connection, query)
        except ConnectionClosed:
            logger.debug("connection %s is closed", connection.id)
        except v1.RefusalError as refusal:
            await _refuse(connection, refusal)
        except StreamASRError as error:
            await _refuse(connection, v1.RefusalError(v1.ErrorCode.BAD_VALUE, str(error)))
        except Exception:  # outermost frame of a connection: the others go on
            logger.exception("connection %s failed", connection.id)
            sentence = "something went wrong in the daemon; its log says what"
            await _refuse(connection, v1.RefusalError(v1.ErrorCode.INTERNAL, sentence))

    async def _serve_stream(self, connection: ServerConnection) -> None:
        start = await _receive_start(connection)
        decoder = PcmDecoder(start.encoding, start.sample_rate, start.channels)
        await self._house.is_ready.wait()
        owner = _Owner(connection)
        sessions = self._house.sessions
        if start.session is None:
            live = self._house.begin(start)
            await sessions.attach(live.name, owner)
        else:
            live = await sessions.attach(start.session, owner)
        has_heard_end = False
        try:
            if start.session is not None and not live.is_finishing:
                self._house.configure(live, start)
            reader = await self._greet(connection, live, start.since or 0)
            with _subscribed(live, reader):
                reading = self._read_audio(connection, live, decoder, reader)
                await _run_both(reading, _send_all(connection, reader))
            has_heard_end = live.is_over.is_set()
        finally:
            sessions.detach(live.name, owner, has_heard_end=has_heard_end)
        await connection.close(1000)

    async def _serve_events(
        self, connection: ServerConnection, query: dict[str, list[str]]
    ) -> None:
        name, since = _read_query(query)
        await self._house.is_ready.wait()
        live = self._house.sessions.find(name)
        reader = await self._greet(connection, live, live.seq if since is None else since)
        with _subscribed(live, reader):
            await _run_both(_answer_pings(connection, reader), _send_all(connection, reader))
        await connection.close(1000)

    async def _greet(self, connection: ServerConnection, live: LiveSession, since: int) -> Reader:
        """Send what is kept since a message, then `ready`; from then on the reader hears all."""
        async for text in live.messages_since(since):
            await _send(connection, text)
        reader = live.subscribe()
        ready = v1.Ready(
            session=live.name,
            model=self._house.model,
            seq=live.seq,
            next_sample=live.position,
        )
        reader.put(ready)
        if live.is_over.is_set():
            reader.close()
        return reader

    async def _read_audio(
        self, connection: ServerConnection, live: LiveSession, decoder: PcmDecoder, reader: Reader
    ) -> None:
        """Read until the client stops, or the session is over for another reason."""
        try:
            await self._read_frames(connection, live, decoder, reader)
        except (ConnectionClosed, v1.RefusalError):
            if not live.is_finishing:  # what the resampler holds back has been received too
                live.feed(decoder.finish())
            raise

    async def _read_frames(
        self, connection: ServerConnection, live: LiveSession, decoder: PcmDecoder, reader: Reader
    ) -> None:
        while not live.is_finishing:
            frame = await connection.recv()
            if isinstance(frame, bytes):
                v1.check_audio(frame)
                await self._feed(live, _decode(decoder, frame), reader)
                continue
            match v1.decode_client(frame):
                case v1.Ping(id=number):
                    reader.put(v1.Pong(id=number))
                case v1.Flush():
                    live.flush()
                case v1.Configure() as wishes:
                    self._house.configure(live, wishes)
                case v1.Stop():
                    await self._feed(live, decoder.finish(), reader)
                    live.finish()
                case v1.Start():
                    sentence = "'start' was sent twice; 'configure' changes a running session"
                    raise v1.RefusalError(v1.ErrorCode.OUT_OF_ORDER, sentence)

    async def _feed(self, live: LiveSession, samples: Float32Array, reader: Reader) -> None:
        for begin in range(0, len(samples), SLICE):
            await live.wait_for_room(self._house.max_lag)
            await reader.wait_below(_MAX_OWN_BACKLOG)
            if live.is_finishing:
                return
            live.feed(samples[begin : begin + SLICE])
            await asyncio.sleep(0)  # other connections have their turn


class _Owner:
    """A connection as the sessions know it."""

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection

    async def is_alive(self, timeout_s: float) -> bool:
        """See `sessions.Connection`."""
        try:
            async with asyncio.timeout(timeout_s):
                await (await self._connection.ping())
        except (TimeoutError, ConnectionClosed):
            return False
        return True

    def abort(self) -> None:
        """See `sessions.Connection`."""
        self._connection.transport.abort()


@contextlib.contextmanager
def _subscribed(live: LiveSession, reader: Reader) -> Iterator[None]:
    try:
        yield
    finally:
        live.unsubscribe(reader)


async def _run_both(reading: Coroutine[Any, Any, None], sending: Coroutine[Any, Any, None]) -> None:
    """Read and send until everything has been sent, or one of them fails."""
    reader, sender = asyncio.create_task(reading), asyncio.create_task(sending)
    try:
        await asyncio.wait([reader, sender], return_when=asyncio.FIRST_COMPLETED)
        if reader.done():
            reader.result()
        await sender
    finally:
        for task in (reader, sender):
            task.cancel()
        await asyncio.gather(reader, sender, return_exceptions=True)


async def _listen_tcp(
    serve_one: Any, host: str, port: int, options: dict[str, Any]
) -> WebSocketServer:
    server = await serve(serve_one, host, port, **options)
    for listening in server.sockets:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    return server


async def _listen_unix(serve_one: Any, path: Path, options: dict[str, Any]) -> WebSocketServer:
    _remove_stale_socket(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Nobody can connect before `listen`, so the mode is right from the first moment.
        listening.bind(str(path))
        path.chmod(0o600)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        return await unix_serve(serve_one, sock=listening, **options)
    except BaseException:
        listening.close()
        raise


def _remove_stale_socket(path: Path) -> None:
    """Remove the socket of a daemon that is dead; one that lives is left alone."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
        else:
            raise ConfigError(f"another program listens on {path} already.")


def _select_subprotocol(_: ServerConnection, offered: Any) -> Subprotocol | None:
    # None where ours is not offered: many clients offer nothing, and that is fine.
    return Subprotocol(v1.SUBPROTOCOL) if v1.SUBPROTOCOL in offered else None


def _page(connection: ServerConnection, body: bytes, content_type: str) -> Response:
    response = connection.respond(http.HTTPStatus.OK, "")
    response.body = body
    for header, value in {
        "Content-Type": content_type,
        "Content-Length": str(len(body)),
        "X-Content-Type-Options": "nosniff",
    }.items():
        del response.headers[header]
        response.headers[header] = value
    return response


def _split_target(request: Request) -> tuple[str, dict[str, list[str]]]:
    """The path of a request and its parameters."""
    path, _, query = request.path.partition("?")
    return path, urllib.parse.parse_qs(query)


def _shows_token(request: Request, in_query: list[str], token: str) -> bool:
    return any(_is_same(text, token) for text in [*in_query, *_shown_tokens(request)])


def _is_same(shown: str, token: str) -> bool:
    return hmac.compare_digest(shown.encode(errors="surrogateescape"), token.encode())


def _shown_tokens(request: Request) -> Iterator[str]:
    for value in request.headers.get_all("Authorization"):
        scheme, _, credentials = value.partition(" ")
        if scheme.lower() == "bearer":
            yield credentials.strip()
    for value in request.headers.get_all("Sec-WebSocket-Protocol"):
        names = [name.strip() for name in value.split(",")]
        if "bearer" in names[:-1]:
            yield names[names.index("bearer") + 1]


def _read_query(query: dict[str, list[str]]) -> tuple[str, int | None]:
    names, since = query.get("session", []), query.get("since", [])
    if len(names) != 1 or len(since) > 1:
        sentence = f"{v1.EVENTS_PATH} needs one session: ?session={v1.MICROPHONE}"
        raise v1.RefusalError(v1.ErrorCode.BAD_VALUE, sentence)
    if not since:
        return names[0], None
    if not re.fullmatch("[0-9]{1,15}", since[0]):
        sentence = "'since' must be the number of a message, or 0 for all of them"
        raise v1.RefusalError(v1.ErrorCode.BAD_VALUE, sentence)
    return names[0], int(since[0])


async def _receive_start(connection: ServerConnection) -> v1.Start:
    try:
        async with asyncio.timeout(_FIRST_MESSAGE_S):
            frame = await connection.recv()
    except TimeoutError:
        sentence = f"no 'start' came within {_FIRST_MESSAGE_S:g} s"
        raise v1.RefusalError(v1.ErrorCode.OUT_OF_ORDER, sentence) from None
    if isinstance(frame, bytes):
        sentence = "audio came before 'start', which says how it is encoded"
        raise v1.RefusalError(v1.ErrorCode.OUT_OF_ORDER, sentence)
    message = v1.decode_client(frame)
    if not isinstance(message, v1.Start):
        sentence = "the first message must be 'start'"
        raise v1.RefusalError(v1.ErrorCode.OUT_OF_ORDER, sentence)
    return message


def _decode(decoder: PcmDecoder, frame: bytes) -> Float32Array:
    try:
        return decoder.feed(frame)
    except AudioError as error:
        raise v1.RefusalError(v1.ErrorCode.BAD_AUDIO, str(error)) from error


async def _send_all(connection: ServerConnection, reader: Reader) -> None:
    """Send until the session is over and its end has been sent."""
    try:
        while not (reader.is_closed and not reader.mailbox):
            if reader.mailbox.is_overfull:
                sentence = "messages are not being read; come back and go on after the last one"
                raise v1.RefusalError(v1.ErrorCode.TOO_SLOW, sentence)
            if (text := reader.take()) is not None:
                await _send(connection, text)
            else:
                await reader.wait()
    finally:
        reader.close()  # whoever waits for it to take something waits no longer


async def _send(connection: ServerConnection, text: str) -> None:
    try:
        async with asyncio.timeout(_SEND_PATIENCE_S):
            await connection.send(text)
    except TimeoutError:
        sentence = f"no message was read for {_SEND_PATIENCE_S:g} s"
        raise v1.RefusalError(v1.ErrorCode.TOO_SLOW, sentence) from None


async def _answer_pings(connection: ServerConnection, reader: Reader) -> None:
    async for frame in connection:
        message = None if isinstance(frame, bytes) else v1.decode_client(frame)
        if not isinstance(message, v1.Ping):
            sentence = f"{v1.EVENTS_PATH} is for listening only; send to {v1.STREAM_PATH}"
            raise v1.RefusalError(v1.ErrorCode.OUT_OF_ORDER, sentence)
        reader.put(v1.Pong(id=message.id))


async def _refuse(connection: ServerConnection, refusal: v1.RefusalError) -> None:
    """Say why, and close."""
    logger.info("connection %s is refused: %s", connection.id, refusal)
    with contextlib.suppress(ConnectionClosed, TimeoutError):
        async with asyncio.timeout(_FIRST_MESSAGE_S):
            await connection.send(v1.encode(refusal.message))
    await connection.close(refusal.close_code, refusal.code)
