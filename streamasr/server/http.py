"""HTTP/1.1 on a connected socket: one request after the other, with streamed bodies.

h11 parses and writes; this module moves the bytes and decides how long to wait and when a
connection can be used again. Nothing here holds a whole body.
"""

import asyncio
import email.utils
import http
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import h11

from streamasr.protocols.dialect import RequestHead
from streamasr.server.byte_stream import ByteStream
from streamasr.server.timeouts import Timeouts
from streamasr.server.transport import DisconnectedError

logger = logging.getLogger(__name__)

Headers = Iterable[tuple[str, str]]

_MAX_HEAD_BYTES: Final = 16 * 1024
_MAX_HEADERS: Final = 128

_MAX_DISCARDED: Final = 64 * 1024
"""Bytes of a body that no one reads, which are discarded so that the connection can be used again.
With more of it, the connection is closed."""

PLAIN: Final = "text/plain; charset=utf-8"

SAFE: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cache-Control", "no-store"),
)
"""Headers of answers that are not pages: run nothing, keep nothing, guess no type."""


class RequestError(Exception):
    """A request that is answered with an error status."""

    def __init__(
        self, status: http.HTTPStatus, message: str, headers: tuple[tuple[str, str], ...] = SAFE
    ) -> None:
        """Describe the answer.

        Args:
            status: 400 or higher.
            message: one sentence for people.
            headers: besides those of the body.
        """
        super().__init__(message)
        self.status = status
        self.headers = headers


class Exchange:
    """One request and its response."""

    def __init__(
        self, head: RequestHead, connection: h11.Connection, stream: ByteStream, timeouts: Timeouts
    ) -> None:
        """Take over after the head of the request was read."""
        self.head = head
        self.stream = stream
        """The connection; for `wait_closed` and its like."""
        self.is_upgraded = False
        """The connection is used for another protocol from now on."""
        self._connection = connection
        self._timeouts = timeouts
        self._max_body = 0
        self._n_received = 0

    @property
    def protocol(self) -> str:
        """Name and version of the client's protocol."""
        return f"HTTP/{(self._connection.their_http_version or b'1.0').decode()}"

    @property
    def has_responded(self) -> bool:
        """The head of the response was sent."""
        return self._connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE)

    @property
    def is_complete(self) -> bool:
        """The response was sent whole."""
        return self._connection.our_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)

    # The body of the request.

    def expect_body(self, max_bytes: int) -> None:
        """Allow `read`.

        Args:
            max_bytes: the largest body.

        Raises:
            RequestError: the request has no body (411), or one that is too big (413).
        """
        self._max_body = max_bytes
        length = self._content_length
        if length is None and not self.head.all("transfer-encoding"):
            raise RequestError(
                http.HTTPStatus.LENGTH_REQUIRED,
                "this request needs a body: with Content-Length or in chunks",
            )
        if length is not None and length > max_bytes:
            raise self._too_big()

    async def read(self) -> bytes:
        """Wait for the next piece of the body. Cancelling it loses nothing.

        Returns:
            Nothing at its end.

        Raises:
            RequestError: the body is too big (413), too slow (408) or wrong (400).
            DisconnectedError: the client left in the middle of it.
        """
        if self._connection.their_state is not h11.SEND_BODY:
            return b""
        is_waiting = self._connection.they_are_waiting_for_100_continue
        if is_waiting and not self._connection.trailing_data[0]:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
            self._write(go_on)
        try:
            async with asyncio.timeout(self._timeouts.body):
                event = await self._next_event()
        except TimeoutError:
            raise RequestError(
                http.HTTPStatus.REQUEST_TIMEOUT,
                f"no part of the body has come for {self._timeouts.body:g} s",
                (*SAFE, ("Connection", "close")),
            ) from None
        if not isinstance(event, h11.Data):
            return b""
        self._n_received += len(event.data)
        if self._n_received > self._max_body:
            raise self._too_big()
        return bytes(event.data)

    # The response.

    async def respond(
        self,
        status: http.HTTPStatus,
        body: bytes | str = b"",
        *,
        content_type: str = PLAIN,
        headers: Headers = SAFE,
    ) -> None:
        """Send a whole response; the body is left out where the method is HEAD.

        Raises:
            DisconnectedError: the client has closed the connection.
        """
        data = body.encode() if isinstance(body, str) else body
        own = [("Content-Type", content_type)] if data else []
        if status is not http.HTTPStatus.NOT_MODIFIED:
            own.append(("Content-Length", str(len(data))))
        await self.start(status, [*own, *headers])
        await self.send(data)
        await self.finish()

    async def respond_error(self, error: RequestError) -> None:
        """Send the response that an error describes."""
        await self.respond(error.status, f"{error}\n", headers=error.headers)

    async def start(self, status: http.HTTPStatus, headers: Headers) -> None:
        """Send the head of a response whose body follows in pieces.

        Without `Content-Length` among the headers, the body is sent in chunks.
        """
        fields = [("Date", email.utils.formatdate(usegmt=True)), *headers]
        if self._has_much_unread:
            fields.append(("Connection", "close"))
        phrase = status.phrase.encode()
        self._write(h11.Response(status_code=status, headers=_encode(fields), reason=phrase))
        await self._drain()

    async def send(self, data: bytes) -> None:
        """Send a piece of the body; wait while the client does not read."""
        if data and self.head.method != "HEAD":
            self._write(h11.Data(data=data))
            await self._drain()

    async def finish(self) -> None:
        """End the response."""
        self._write(h11.EndOfMessage())
        await self._drain()

    async def upgrade(self, headers: Headers) -> None:
        """Switch to the protocol that the client asked for; from now on use `stream` alone.

        Raises:
            RequestError: the request has a body.
            DisconnectedError: the client has closed the connection.
        """
        if not isinstance(await self._next_event(), h11.EndOfMessage):
            raise RequestError(http.HTTPStatus.BAD_REQUEST, "a request to upgrade has no body")
        phrase = b"Switching Protocols"
        fields = _encode(headers)
        self._write(h11.InformationalResponse(status_code=101, headers=fields, reason=phrase))
        self.is_upgraded = True
        self.stream.unread(self._connection.trailing_data[0])
        await self._drain()

    # The end.

    async def discard_body(self) -> bool:
        """Read the rest of the body; tell whether the connection can be used for more requests."""
        n_discarded = 0
        while self._connection.their_state is h11.SEND_BODY:
            if self._connection.our_state is not h11.DONE or n_discarded > _MAX_DISCARDED:
                return False
            try:
                async with asyncio.timeout(self._timeouts.body):
                    event = await self._next_event()
            except (TimeoutError, RequestError):
                return False
            n_discarded += len(event.data) if isinstance(event, h11.Data) else 0
        states = (self._connection.our_state, self._connection.their_state)
        return states == (h11.DONE, h11.DONE)

    @property
    def _content_length(self) -> int | None:
        values = self.head.all("content-length")
        return int(values[0]) if values else None  # h11 has checked them

    @property
    def _has_much_unread(self) -> bool:
        if self._connection.their_state is not h11.SEND_BODY:
            return False
        if self.head.all("transfer-encoding"):
            return True
        return (self._content_length or 0) - self._n_received > _MAX_DISCARDED

    def _too_big(self) -> RequestError:
        return RequestError(
            http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body is too big; the limit is {self._max_body} bytes",
        )

    def _write(self, event: h11.Event) -> None:
        data = self._connection.send(event)
        if data:
            self.stream.write(data)

    async def _drain(self) -> None:
        """Wait while the client does not read, for a limited time."""
        try:
            async with asyncio.timeout(self._timeouts.send):
                await self.stream.drain()
        except TimeoutError:
            self.stream.abort()
            raise DisconnectedError from None

    async def _next_event(self) -> object:
        return await _next_event(self._connection, self.stream)


async def serve_http(
    stream: ByteStream,
    timeouts: Timeouts,
    handle: Callable[[Exchange], Awaitable[None]],
    is_stopping: Callable[[], bool],
) -> None:
    """Serve the requests of a connection until it is closed or upgraded.

    Args:
        stream: connected.
        timeouts: for the client.
        handle: responds to a request. It may raise RequestError before it has responded.
        is_stopping: returns whether the connection shall end with the present request.

    Raises:
        DisconnectedError: the client left in the middle of a request.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_BYTES)
    wait_s = timeouts.start
    while True:
        try:
            head = await _receive_head(connection, stream, timeouts, wait_s)
        except RequestError as error:
            await _refuse_head(connection, stream, error)
            break
        if head is None:
            break
        exchange = Exchange(head, connection, stream, timeouts)
        if not await _respond(exchange, handle):
            break
        if exchange.is_upgraded:
            return
        if not await exchange.discard_body() or is_stopping():
            break
        connection.start_next_cycle()
        wait_s = timeouts.idle
    await stream.close(timeouts.close)


async def _respond(exchange: Exchange, handle: Callable[[Exchange], Awaitable[None]]) -> bool:
    """Respond to a request; tell whether that has worked."""
    try:
        await handle(exchange)
    except RequestError as error:
        if exchange.has_responded:
            return False
        await exchange.respond_error(error)
    except DisconnectedError:
        raise
    except Exception:  # outermost frame of a request: the others continue
        logger.exception("request %s failed", exchange.stream.name)
        if exchange.has_responded:
            return False
        message = "the daemon failed to answer; its log has the details"
        await exchange.respond_error(RequestError(http.HTTPStatus.INTERNAL_SERVER_ERROR, message))
    return exchange.is_upgraded or exchange.is_complete


async def _receive_head(
    connection: h11.Connection, stream: ByteStream, timeouts: Timeouts, wait_s: float
) -> RequestHead | None:
    """Wait for the head of a request; None when the client sends no more requests.

    Raises:
        RequestError: the head is wrong (400, 431, 505) or takes too long (408).
    """
    try:
        async with asyncio.timeout(wait_s):
            if not connection.trailing_data[0]:
                stream.is_idle = True
                connection.receive_data(await stream.read())
                stream.is_idle = False
        async with asyncio.timeout(timeouts.start):
            event = await _next_event(connection, stream)
    except DisconnectedError:
        return None
    except TimeoutError:
        if not connection.trailing_data[0]:
            return None
        raise RequestError(
            http.HTTPStatus.REQUEST_TIMEOUT,
            f"the head of the request has not come within {timeouts.start:g} s",
        ) from None
    if not isinstance(event, h11.Request):
        return None
    return _head(event)


def _head(request: h11.Request) -> RequestHead:
    if request.http_version not in (b"1.0", b"1.1"):
        raise RequestError(
            http.HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "this server speaks HTTP/1.1"
        )
    if len(request.headers) > _MAX_HEADERS:
        raise RequestError(
            http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"the request has more than {_MAX_HEADERS} headers",
        )
    headers = tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in request.headers)
    return RequestHead(request.method.decode(), request.target.decode("latin-1"), headers)


async def _refuse_head(connection: h11.Connection, stream: ByteStream, error: RequestError) -> None:
    exchange = Exchange(RequestHead(), connection, stream, Timeouts())
    if not exchange.has_responded:
        closing = RequestError(error.status, str(error), (*SAFE, ("Connection", "close")))
        await exchange.respond_error(closing)


async def _next_event(connection: h11.Connection, stream: ByteStream) -> object:
    """Wait for the next event of the request. Cancelling it loses nothing.

    Raises:
        RequestError: the client does not speak HTTP.
        DisconnectedError: the client left in the middle of a request.
    """
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            if connection.trailing_data[1]:  # the end came too early
                raise DisconnectedError from error
            status = http.HTTPStatus(error.error_status_hint)
            raise RequestError(status, f"this is not a request: {error}") from error
        if event is not h11.NEED_DATA:
            return event
        connection.receive_data(await stream.read())


def _encode(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
