"""An HTTP request and its response as a transport: the body in, the response out."""

import contextlib
import http

from streamasr.protocols.dialect import Close, Frame, ResponseHead
from streamasr.server.http import Exchange, RequestError
from streamasr.server.transport import DisconnectedError


class HttpTransport:
    """A request that is being answered. See `Transport`."""

    def __init__(self, exchange: Exchange) -> None:
        """Take over a request whose body may be read."""
        self._exchange = exchange
        self._has_ended = False

    @property
    def name(self) -> str:
        """See `Transport.name`."""
        return self._exchange.stream.name

    @property
    def is_given_up(self) -> bool:
        """See `Transport.is_given_up`."""
        return self._exchange.is_complete

    @property
    def has_left(self) -> bool:
        """See `Transport.has_left`."""
        return self._exchange.stream.has_left

    @property
    def start_timeout_s(self) -> float | None:
        """See `Transport.start_timeout_s`; a request may open a session at the end of its body."""
        return None

    async def receive(self) -> Frame | None:
        """See `Transport.receive`; a body that is too big, too slow or wrong is refused here."""
        if self._has_ended:
            await self.wait_closed()
            raise DisconnectedError
        try:
            data = await self._exchange.read()
        except RequestError as error:
            if self._exchange.has_responded:
                self.abort()
            else:
                await self._exchange.respond_error(error)
            raise DisconnectedError from error
        self._has_ended = not data
        return data or None

    async def send(self, frame: Frame | ResponseHead) -> None:
        """See `Transport.send`; a body without a head gets that of a success."""
        if isinstance(frame, ResponseHead):
            headers = [("Content-Type", frame.content_type), *frame.headers]
            await self._exchange.start(http.HTTPStatus(frame.status), headers)
            return
        if not self._exchange.has_responded:
            await self.send(ResponseHead())
        await self._exchange.send(frame.encode() if isinstance(frame, str) else frame)

    async def close(self, close: Close) -> None:
        """See `Transport.close`: end the response.

        A response that was begun is left incomplete where the server stops (1001), so that the
        client notices.
        """
        if close.code == 1001 and self._exchange.has_responded:
            self.abort()
        with contextlib.suppress(DisconnectedError):
            if not self._exchange.has_responded:
                await self.send(ResponseHead(http.HTTPStatus.NO_CONTENT))
            if not self._exchange.is_complete:
                await self._exchange.finish()

    def abort(self) -> None:
        """See `Transport.abort`."""
        self._exchange.stream.abort()

    async def wait_closed(self) -> None:
        """See `Transport.wait_closed`."""
        await self._exchange.stream.wait_closed()

    async def probe(self) -> None:
        """See `Transport.probe`; HTTP can only tell whether the client has closed."""
        if self.has_left:
            raise DisconnectedError
