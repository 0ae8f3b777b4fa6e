"""A session as its client sees it, over as many connections as it takes."""

import abc
import asyncio
import contextlib
import logging
import math
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeAlias
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import CloseCode

from streamasr.client.address import Address, reason_to_retry
from streamasr.client.timeouts import Timeouts
from streamasr.core.errors import ProtocolError, StreamASRError
from streamasr.core.refusal import RefusalError
from streamasr.protocols import v1

logger = logging.getLogger(__name__)

_CLOSE_S: Final = 2.0

_WILL_RESUME: Final = 4000
"""Close code with which the server keeps the session."""

_FAILURES: Final = (OSError, WebSocketException, ProtocolError)


class UnreachableError(StreamASRError):
    """No server answers."""

    default_code = "unreachable"


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """There is no connection; another attempt follows."""

    reason: str
    """One sentence for people."""
    tries: int
    """Failed attempts so far."""
    pause: float
    """Seconds until the next attempt."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The connection is back, and no message is missing."""

    ready: v1.Ready


Event: TypeAlias = v1.ServerMessage | Reconnecting | Resumed


class ResumableSession(abc.ABC):
    """A session over as many connections as it takes.

    A task of its own exchanges messages with the server, so that a caller may only read or only
    write. State that callers wait for is changed under `_changed`.
    """

    def __init__(self, address: Address, since: int | None, timeouts: Timeouts) -> None:
        self._address = address
        self._timeouts = timeouts
        self._changed = asyncio.Condition()
        self._inbox: deque[Event] = deque()
        self._last = since  # durable message; None: the next one is the first
        self._ready: v1.Ready | None = None
        self._ready_at = math.inf  # of the present connection, on the loop's clock
        self._has_ended = False
        self._is_over = False
        self._is_connected = False
        self._has_raised = False  # the caller got the failure that ended the session
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; the session stays open for a while, unless it has ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.exception()  # callers who wait have got it

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Return the next event.

        Raises:
            ProtocolError: the server refuses to continue, or breaks the protocol.
            UnreachableError: the server does not answer any more.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._inbox or self._is_over)
            if self._inbox:
                return self._inbox.popleft()
        await self._raise_failure()
        raise StopAsyncIteration

    async def _raise_failure(self) -> None:
        """Raise the failure that ended the exchange; return if the session ended."""
        assert self._task is not None
        await asyncio.wait([self._task])
        self._has_raised = True
        if not self._task.cancelled():
            self._task.result()

    async def _run(self) -> None:
        try:
            await self._use_connections()
        finally:
            self._is_over = True
            async with self._changed:
                self._changed.notify_all()

    async def _use_connections(self) -> None:
        """Use one connection after the other until the session ends."""
        clock = asyncio.get_running_loop().time
        tries, failing_since, pause = 0, clock(), 0.0
        while not self._has_ended:
            try:
                await self._use_connection()
            except _FAILURES as error:
                now = clock()
                if now - self._ready_at > pause:  # it worked for longer than the pause before it
                    tries, failing_since = 0, now
                tries += 1
                reason = reason_to_retry(error, self._address.name)
                pause = self._timeouts.pause(tries)
                limit = self._timeouts.resume if self._ready else self._timeouts.first
                if now + pause - failing_since > limit:
                    if isinstance(error, ProtocolError):
                        raise
                    raise UnreachableError(reason) from error
                logger.info("%s; next attempt in %.1f s", reason, pause)
                await self._deliver(Reconnecting(reason, tries, pause))
                await asyncio.sleep(pause)

    async def _use_connection(self) -> None:
        """Use one connection up to its end, or to that of the session."""
        self._ready_at = math.inf
        connection = await self._address.open(self._path(), self._timeouts.open)
        code: int = CloseCode.NORMAL_CLOSURE
        try:
            with contextlib.suppress(ConnectionClosed):  # reading finds the reason
                await self._open_session(connection)
            await self._receive_ready(connection)
            await self._read_and_write(connection)
        except _FAILURES:
            code = _WILL_RESUME
            raise
        finally:
            # A server that reads nothing now would not read the close frame either.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await connection.close(code)
            connection.transport.abort()

    async def _read_and_write(self, connection: ClientConnection) -> None:
        reader = asyncio.create_task(self._read(connection))
        writer = asyncio.create_task(self._write(connection))
        self._is_connected = True
        try:
            await asyncio.wait([reader, writer], return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                writer.result()
            await reader  # raises the reason, if the connection is lost
        finally:
            self._is_connected = False
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _receive_ready(self, connection: ClientConnection) -> None:
        """Receive the messages that this client has missed, up to `ready`."""
        is_ready = False
        while not (is_ready or self._has_ended):
            async with asyncio.timeout(self._timeouts.open):
                frame = await connection.recv()
            message = v1.decode_server(frame)
            await self._receive(message)
            is_ready = isinstance(message, v1.Ready)

    async def _read(self, connection: ClientConnection) -> None:
        while not self._has_ended:
            await self._receive(v1.decode_server(await connection.recv()))

    async def _receive(self, message: v1.ServerMessage | None) -> None:
        match message:
            case None:
                pass
            case v1.Error():
                raise RefusalError(message.message, code=message.code)
            case v1.Ready():
                await self._take_ready(message)
            case v1.Final() | v1.Words() | v1.Gap() | v1.End():
                if self._is_new(message):
                    await self._deliver(message)
            case _:
                await self._deliver(message)

    def _is_new(self, message: v1.Durable) -> bool:
        if self._last is not None:
            if message.seq <= self._last:
                return False
            if message.seq > self._last + 1:
                raise ProtocolError(
                    f"the server left out message {self._last + 1}", code="message_missing"
                )
        self._last = message.seq
        self._has_ended = isinstance(message, v1.End)
        return True

    async def _take_ready(self, ready: v1.Ready) -> None:
        if self._last is None:
            self._last = ready.seq
        elif ready.seq < self._last:
            raise ProtocolError(
                f"session {ready.session!r} was begun anew while this client was away",
                code="session_restarted",
            )
        is_first, self._ready = self._ready is None, ready
        self._ready_at = asyncio.get_running_loop().time()
        await self._deliver(ready if is_first else Resumed(ready))

    async def _deliver(self, event: Event) -> None:
        async with self._changed:
            if self._inbox and _replaces(event, self._inbox[-1]):
                self._inbox.pop()
            self._inbox.append(event)
            self._changed.notify_all()

    @abc.abstractmethod
    def _path(self) -> str:
        """Return the path and query of the next connection."""

    @abc.abstractmethod
    async def _open_session(self, connection: ClientConnection) -> None:
        """Send what the server needs before it answers with `ready`."""

    @abc.abstractmethod
    async def _write(self, connection: ClientConnection) -> None:
        """Send what comes after `ready`; return when the connection is lost."""


def _replaces(event: Event, unread: Event) -> bool:
    """Tell whether an event makes the one before it superfluous."""
    match event, unread:
        case v1.Partial(), v1.Partial():
            return event.segment == unread.segment
        case Reconnecting(), Reconnecting():
            return True
        case _:
            return False


class Subscription(ResumableSession):
    """Reads the events of a session without sending audio to it."""

    def __init__(
        self, address: Address, session: str, since: int | None, timeouts: Timeouts
    ) -> None:
        super().__init__(address, since, timeouts)
        self._session = session

    def _path(self) -> str:
        query = {"session": self._session}
        if self._last is not None:
            query["since"] = str(self._last)
        return f"{v1.EVENTS_PATH}?{urlencode(query)}"

    async def _open_session(self, connection: ClientConnection) -> None:
        pass

    async def _write(self, connection: ClientConnection) -> None:
        await connection.wait_closed()
