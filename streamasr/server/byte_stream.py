"""One connected socket: bytes in and out, with back-pressure in both directions."""

import asyncio
import itertools
import select
import socket
from collections.abc import Callable
from typing import Final, cast

from streamasr.server.transport import DisconnectedError

PORTION: Final = 64 * 1024
"""Bytes that are read at once. More than this is not read from the socket in advance."""

_WRITE_LIMIT: Final = 32 * 1024
"""Bytes that may wait to be sent before a writer has to wait."""

_numbers = itertools.count(1)


class ByteStream(asyncio.Protocol):
    """A connected socket. Made by a listening one; belongs to the event loop's thread."""

    def __init__(
        self, opened: Callable[["ByteStream"], None], closed: Callable[["ByteStream"], None]
    ) -> None:
        """Prepare for a connection.

        Args:
            opened: called when the connection is made.
            closed: called when it is lost or was closed.
        """
        self.name = f"#{next(_numbers)}"
        """Identifies the connection in logs."""
        self.is_idle = False
        """The server waits for the next request, and owes nothing."""
        self._opened = opened
        self._closed = closed
        self._received = bytearray()
        self._at_eof = False
        self._is_paused = False
        self._arrived = asyncio.Event()  # bytes, the end of them, or the end of the connection
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(_WRITE_LIMIT)
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._received += data
        self._arrived.set()
        if len(self._received) >= PORTION and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`; the other direction stays open."""
        self._at_eof = True
        self._arrived.set()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """See `asyncio.Protocol`."""
        self._lost.set()
        self._arrived.set()
        self._writable.set()
        self._closed(self)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._writable.set()

    # Called by the server.

    @property
    def has_left(self) -> bool:
        """The other end has closed the connection, even if not all that it sent has been read."""
        if self._lost.is_set() or self._at_eof:
            return True
        end: socket.socket | None = self._transport.get_extra_info("socket")
        if end is None or end.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(end.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    async def read(self) -> bytes:
        """Wait for bytes and return them, `PORTION` at most. Cancelling it loses nothing.

        Returns:
            Nothing at the end of the other end's input.

        Raises:
            DisconnectedError: the connection is closed, and everything was read.
        """
        while not self._received:
            if self._lost.is_set():
                raise DisconnectedError
            if self._at_eof:
                return b""
            self._arrived.clear()
            await self._arrived.wait()
        data = bytes(self._received[:PORTION])
        del self._received[:PORTION]
        if self._is_paused and len(self._received) < PORTION and not self._lost.is_set():
            self._is_paused = False
            self._transport.resume_reading()
        return data

    def unread(self, data: bytes) -> None:
        """Put bytes back, to be read next."""
        self._received[:0] = data

    def write(self, data: bytes) -> None:
        """Send bytes, without waiting; `drain` waits.

        Raises:
            DisconnectedError: the connection is closed.
        """
        if self._lost.is_set() or self._transport.is_closing():
            raise DisconnectedError
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the other end has read enough that more may be written.

        Raises:
            DisconnectedError: the connection was closed.
        """
        await self._writable.wait()
        if self._lost.is_set():
            raise DisconnectedError

    def write_eof(self) -> None:
        """End the output, once everything was sent; input may still come."""
        if not self._lost.is_set() and self._transport.can_write_eof():
            self._transport.write_eof()

    async def close(self, timeout_s: float) -> None:
        """Send what waits and close the connection.

        Input is discarded until the other end closes, too: closed with unread input, a socket sends
        a reset, and the other end may lose what it has not read yet.

        Args:
            timeout_s: the longest time for it.
        """
        self.write_eof()
        try:
            async with asyncio.timeout(timeout_s):
                while await self.read():
                    pass
                self._transport.close()
                await self.wait_closed()
        except (DisconnectedError, TimeoutError):
            self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    @property
    def is_closed(self) -> bool:
        """The connection is closed; bytes that came before may still wait to be read."""
        return self._lost.is_set()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""
        await self._lost.wait()

    async def wait_while_open(self, event: asyncio.Event) -> None:
        """Wait for an event, at most until the connection is closed."""
        waits = [asyncio.create_task(event.wait()), asyncio.create_task(self._lost.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
