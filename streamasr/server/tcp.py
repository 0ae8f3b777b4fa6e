"""A plain TCP or Unix connection as a transport; its codec finds the messages in the bytes."""

from streamasr.protocols.dialect import Close, Frame, ResponseHead
from streamasr.server.byte_stream import ByteStream
from streamasr.server.timeouts import Timeouts
from streamasr.server.transport import DisconnectedError


class TcpTransport:
    """A connected socket. See `Transport`."""

    def __init__(self, stream: ByteStream, timeouts: Timeouts) -> None:
        """Take over a connection."""
        self._stream = stream
        self._timeouts = timeouts
        self._has_ended = False
        self._was_closed = False

    @property
    def name(self) -> str:
        """See `Transport.name`."""
        return self._stream.name

    @property
    def is_given_up(self) -> bool:
        """See `Transport.is_given_up`; TCP does not show whether a client left on purpose."""
        return self._was_closed

    @property
    def has_left(self) -> bool:
        """See `Transport.has_left`."""
        return self._stream.has_left

    @property
    def start_timeout_s(self) -> float | None:
        """See `Transport.start_timeout_s`."""
        return self._timeouts.start

    async def receive(self) -> Frame | None:
        """See `Transport.receive`."""
        if self._has_ended:
            await self._stream.wait_closed()
            raise DisconnectedError
        data = await self._stream.read()
        self._has_ended = not data
        return data or None

    async def send(self, frame: Frame | ResponseHead) -> None:
        """See `Transport.send`."""
        if isinstance(frame, ResponseHead):
            raise TypeError("a TCP connection has no response head")
        self._stream.write(frame.encode() if isinstance(frame, str) else frame)
        await self._stream.drain()

    async def close(self, close: Close) -> None:  # noqa: ARG002 - there are no codes
        """See `Transport.close`."""
        self._was_closed = True
        await self._stream.close(self._timeouts.close)

    def abort(self) -> None:
        """See `Transport.abort`."""
        self._stream.abort()

    async def wait_closed(self) -> None:
        """See `Transport.wait_closed`."""
        await self._stream.wait_closed()

    async def probe(self) -> None:
        """See `Transport.probe`; TCP can only tell whether the other end has closed."""
        if self._stream.has_left:
            raise DisconnectedError
