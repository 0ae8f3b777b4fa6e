"""A WebSocket as a transport, on a connected socket.

websockets' sans-I/O protocol parses and writes the frames; this module moves the bytes, puts
messages together, bounds what waits, sends pings, and closes in time.
"""

import asyncio
import contextlib
import http
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from websockets.datastructures import Headers
from websockets.exceptions import InvalidState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from streamasr.protocols import dialect
from streamasr.server.byte_stream import ByteStream
from streamasr.server.http import Exchange, RequestError
from streamasr.server.timeouts import Timeouts
from streamasr.server.transport import DisconnectedError

_MAX_WAITING: Final = 4
"""Messages that may wait to be received before reading stops; with the largest size of a message,
this bounds the memory that a connection can take."""

_FEW_WAITING: Final = 1
"""Messages at which reading goes on."""

_MAX_FRAGMENTS: Final = 4096
"""Frames that one message may consist of."""

_PING_EVERY_S: Final = 20.0
"""So often a ping shows that the way to a client still exists. Pongs are not waited for: one may
stand behind much audio that is not read yet. TCP notices when the other machine is gone."""


class WebSocket:
    """An open WebSocket. See `Transport`."""

    def __init__(self, stream: ByteStream, protocol: ServerProtocol, timeouts: Timeouts) -> None:
        """Take over a connection after its upgrade."""
        self._stream = stream
        self._protocol = protocol
        self._timeouts = timeouts
        self._messages: deque[dialect.Frame] = deque()
        self._fragments: list[Frame] = []
        self._changed = asyncio.Event()  # a message came or the end, for `receive`
        self._taken = asyncio.Event()  # there is room again, for reading
        self._close_by: float | None = None
        self._closed = asyncio.Event()
        self._pongs: dict[bytes, asyncio.Future[None]] = {}
        self._reading = asyncio.create_task(self._read_all())
        self._pinging = asyncio.create_task(self._ping_regularly())

    @property
    def name(self) -> str:
        """See `Transport.name`."""
        return self._stream.name

    @property
    def is_given_up(self) -> bool:
        """See `Transport.is_given_up`.

        A browser whose page is left closes with 1001; one whose script gives no code, without one.
        """
        code = self._protocol.close_code
        if code == CloseCode.NORMAL_CLOSURE:
            return True
        was_left = code in (CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD)
        return was_left and self._protocol.close_rcvd_then_sent is True

    @property
    def has_left(self) -> bool:
        """See `Transport.has_left`."""
        return self._stream.has_left

    @property
    def start_timeout_s(self) -> float | None:
        """See `Transport.start_timeout_s`."""
        return self._timeouts.start

    async def receive(self) -> dialect.Frame | None:
        """See `Transport.receive`."""
        while not self._messages:
            if self._closed.is_set():
                raise DisconnectedError
            self._changed.clear()
            await self._changed.wait()
        message = self._messages.popleft()
        if len(self._messages) <= _FEW_WAITING:
            self._taken.set()
        return message

    async def send(self, frame: dialect.Frame | dialect.ResponseHead) -> None:
        """See `Transport.send`."""
        if isinstance(frame, dialect.ResponseHead):
            raise TypeError("a WebSocket has no response head")
        try:
            if isinstance(frame, str):
                self._protocol.send_text(frame.encode())
            else:
                self._protocol.send_binary(frame)
            self._write()
            await self._stream.drain()
        except (InvalidState, DisconnectedError) as error:
            await self.wait_closed()
            raise DisconnectedError from error

    async def close(self, close: dialect.Close) -> None:
        """See `Transport.close`."""
        with contextlib.suppress(InvalidState, DisconnectedError):
            self._protocol.send_close(close.code, close.reason)
            self._write()
        self._taken.set()  # from now on messages are read and dropped
        try:
            async with asyncio.timeout(self._timeouts.close):
                await self.wait_closed()
        except TimeoutError:
            self.abort()
            await self.wait_closed()

    def abort(self) -> None:
        """See `Transport.abort`."""
        self._stream.abort()

    async def wait_closed(self) -> None:
        """See `Transport.wait_closed`."""
        await self._closed.wait()

    async def probe(self) -> None:
        """See `Transport.probe`: send a ping and wait for its pong."""
        payload = secrets.token_bytes(4)
        pong = self._pongs[payload] = asyncio.get_running_loop().create_future()
        try:
            self._protocol.send_ping(payload)
            self._write()
            await asyncio.wait([pong])
        except InvalidState as error:
            raise DisconnectedError from error
        finally:
            self._pongs.pop(payload, None)
        if pong.cancelled():
            raise DisconnectedError

    # Reading, in a task of its own.

    async def _read_all(self) -> None:
        """Read until the connection is closed, and then note its end."""
        try:
            with contextlib.suppress(DisconnectedError, TimeoutError):
                while data := await self._read():
                    self._protocol.receive_data(data)
                    self._take(self._protocol.events_received())
                    if self._write():
                        await self._stream.drain()
                    await self._wait_for_room()
        finally:
            self._protocol.receive_eof()
            self._pinging.cancel()
            self._stream.abort()
            await self._stream.wait_closed()
            self._closed.set()
            self._changed.set()
            for pong in self._pongs.values():
                pong.cancel()

    async def _read(self) -> bytes:
        if self._protocol.state is not State.OPEN and self._close_by is None:
            self._close_by = asyncio.get_running_loop().time() + self._timeouts.close
        async with asyncio.timeout_at(self._close_by):  # the other end has to close, too
            return await self._stream.read()

    def _take(self, frames: Sequence[object]) -> None:
        for frame in frames:
            assert isinstance(frame, Frame)
            if frame.opcode is Opcode.PONG:
                self._acknowledge(bytes(frame.data))
            elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._take_fragment(frame)

    def _acknowledge(self, payload: bytes) -> None:
        pong = self._pongs.get(payload)
        if pong is not None and not pong.done():
            pong.set_result(None)

    def _take_fragment(self, frame: Frame) -> None:
        if self._protocol.state is not State.OPEN and self._protocol.close_rcvd is None:
            return  # closed by this end, which takes nothing more
        self._fragments.append(frame)
        if len(self._fragments) > _MAX_FRAGMENTS:
            self._protocol.fail(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
        elif frame.fin:
            data = b"".join(fragment.data for fragment in self._fragments)
            is_text = self._fragments[0].opcode is Opcode.TEXT
            self._fragments.clear()
            try:
                self._messages.append(data.decode() if is_text else data)
            except UnicodeDecodeError as error:
                reason = f"{error.reason} at position {error.start}"
                self._protocol.fail(CloseCode.INVALID_DATA, reason)
            self._changed.set()

    async def _wait_for_room(self) -> None:
        """Hold the other end back while enough messages wait."""
        while len(self._messages) > _MAX_WAITING and self._protocol.state is State.OPEN:
            if self._stream.is_closed:
                return
            self._taken.clear()
            await self._stream.wait_while_open(self._taken)

    # Writing.

    def _write(self) -> bool:
        """Write what the protocol has to send; tell whether that was anything."""
        has_written = False
        for data in self._protocol.data_to_send():
            has_written = True
            if data:
                self._stream.write(data)
            else:
                self._stream.write_eof()
        return has_written

    async def _ping_regularly(self) -> None:
        with contextlib.suppress(InvalidState, DisconnectedError):
            while True:
                await asyncio.sleep(_PING_EVERY_S)
                self._protocol.send_ping(secrets.token_bytes(4))
                self._write()


async def upgrade(
    exchange: Exchange,
    *,
    select_subprotocol: Callable[[Sequence[str]], str | None],
    max_frame_bytes: int,
    timeouts: Timeouts,
) -> WebSocket:
    """Open the WebSocket that a request asks for.

    Args:
        exchange: of the request; nothing was sent yet.
        select_subprotocol: returns one of those that the client offers, or None.
        max_frame_bytes: the largest message that is read.
        timeouts: for the client.

    Raises:
        RequestError: the request does not ask for a WebSocket, or in a wrong way.
        DisconnectedError: the client has closed the connection.
    """

    def select(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        chosen = select_subprotocol(offered)
        return None if chosen is None else Subprotocol(chosen)

    head = exchange.head
    # The handshake goes through h11, so the protocol begins when it is over.
    protocol = ServerProtocol(state=State.OPEN, select_subprotocol=select, max_size=max_frame_bytes)
    request = Request(head.target, Headers(head.headers), head.method, exchange.protocol)
    response = protocol.accept(request)
    if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
        wanted = {"Upgrade", "Allow"}
        headers = tuple((k, v) for k, v in response.headers.raw_items() if k in wanted)
        status = http.HTTPStatus(response.status_code)
        raise RequestError(status, (response.body or b"").decode().strip(), headers)
    await exchange.upgrade(response.headers.raw_items())
    return WebSocket(exchange.stream, protocol, timeouts)
