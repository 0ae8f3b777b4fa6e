"""WebSockets as transports."""

import asyncio
import select
import socket

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from streamasr.protocols.dialect import Close, Frame, ResponseHead
from streamasr.server.transport import DisconnectedError


class WebSocket:
    """An open WebSocket. See `Transport`."""

    def __init__(self, connection: ServerConnection, close_timeout_s: float) -> None:
        """Take over an open connection."""
        self._connection = connection
        self._close_timeout_s = close_timeout_s

    @property
    def name(self) -> str:
        """See `Transport.name`."""
        return str(self._connection.id)

    @property
    def is_given_up(self) -> bool:
        """See `Transport.is_given_up`.

        A browser whose page is left closes with 1001; one whose script gives no code, without one.
        """
        code = self._connection.close_code
        if code == CloseCode.NORMAL_CLOSURE:
            return True
        was_left = code in (CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD)
        return was_left and self._connection.protocol.close_rcvd_then_sent is True

    @property
    def has_left(self) -> bool:
        """See `Transport.has_left`."""
        end: socket.socket | None = self._connection.transport.get_extra_info("socket")
        if end is None or end.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(end.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    async def receive(self) -> Frame | None:
        """See `Transport.receive`."""
        try:
            return await self._connection.recv()
        except ConnectionClosed as error:
            raise DisconnectedError from error

    async def send(self, frame: Frame | ResponseHead) -> None:
        """See `Transport.send`."""
        assert not isinstance(frame, ResponseHead)
        try:
            await self._connection.send(frame)
        except ConnectionClosed as error:
            raise DisconnectedError from error

    async def close(self, close: Close) -> None:
        """See `Transport.close`."""
        try:
            async with asyncio.timeout(self._close_timeout_s):
                await self._connection.close(close.code, close.reason)
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """See `Transport.abort`."""
        self._connection.transport.abort()

    async def wait_closed(self) -> None:
        """See `Transport.wait_closed`."""
        await self._connection.wait_closed()

    async def probe(self) -> None:
        """See `Transport.probe`."""
        try:
            await (await self._connection.ping())
        except ConnectionClosed as error:
            raise DisconnectedError from error
