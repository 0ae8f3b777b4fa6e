"""A session as its client sees it, over as many connections as it takes."""

import abc
import asyncio
import contextlib
import logging
import math
import random
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeAlias
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.frames import CloseCode

from streamasr.client.address import Address, why_try_again
from streamasr.core.errors import ProtocolError, StreamASRError
from streamasr.core.refusal import RefusalError
from streamasr.protocols import v1

logger = logging.getLogger(__name__)

_GOODBYE_S: Final = 2.0
_COMING_BACK: Final = 4000
"""Closed with this, no server takes it that we have left on purpose."""

_TROUBLES: Final = (OSError, WebSocketException, ProtocolError)

DEFAULT_URL: Final = f"ws://127.0.0.1:{v1.DEFAULT_PORT}"


class UnreachableError(StreamASRError):
    """No server answers, or none any longer."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long is waited for a server, in seconds."""

    open: float = 60.0
    """For each answer of one that is there; it may be loading its models."""
    first: float = 0.0
    """How long in all the first connection is tried; 0: once."""
    resume: float = 300.0
    """How long in all a lost connection is tried; servers forget the session in the end."""
    shortest_pause: float = 0.2
    """Before the second try; it doubles from try to try."""
    longest_pause: float = 5.0

    def pause(self, tries: int) -> float:
        """How long to wait after so many tries in vain.

        At random, lest all clients of a server that comes back come at once.
        """
        pause = min(self.longest_pause, self.shortest_pause * 2.0 ** min(tries - 1, 32))
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret depends on it


PATIENT: Final = Timeouts()
"""For a program whose server is there."""

FOREVER: Final = Timeouts(first=math.inf, resume=math.inf)
"""For a program that is there before its server, and after."""


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """There is no connection; another try follows."""

    reason: str
    """One sentence for people."""
    tries: int
    """In vain so far."""
    pause: float
    """Seconds until the next."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The connection is back, and nothing is missing."""

    ready: v1.Ready


Event: TypeAlias = v1.ServerMessage | Reconnecting | Resumed


class Conversation(abc.ABC):
    """A session as its client sees it, over as many connections as it takes.

    A task of its own talks to the server, so that nothing waits for a caller who only reads or
    only writes. Whatever it changes, it changes and tells under `_changed`.
    """

    def __init__(self, address: Address, since: int | None, timeouts: Timeouts) -> None:
        self._address = address
        self._timeouts = timeouts
        self._changed = asyncio.Condition()
        self._inbox: deque[Event] = deque()
        self._last = since  # durable message; None: whichever comes is the first
        self._ready: v1.Ready | None = None
        self._ready_at = math.inf  # of the present connection, on the loop's clock
        self._has_ended = False
        self._is_over = False
        self._is_connected = False
        self._has_told = False  # the caller why it is over
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
        """Leave; the session stays open for a while, unless it has ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.exception()  # it was raised where somebody wanted to know

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """What comes next.

        Raises:
            ProtocolError: the server refuses to go on.
            UnreachableError: there is no server any longer.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._inbox or self._is_over)
            if self._inbox:
                return self._inbox.popleft()
        await self._raise_failure()
        raise StopAsyncIteration

    async def _raise_failure(self) -> None:
        """Raise what ended the conversation, if it was not the end of the session."""
        assert self._task is not None
        await asyncio.wait([self._task])
        self._has_told = True
        if not self._task.cancelled():
            self._task.result()

    async def _run(self) -> None:
        try:
            await self._follow()
        finally:
            self._is_over = True
            async with self._changed:
                self._changed.notify_all()

    async def _follow(self) -> None:
        """Converse until the session ends; after each loss, resume."""
        clock = asyncio.get_running_loop().time
        tries, troubled_since, pause = 0, clock(), 0.0
        while not self._has_ended:
            try:
                await self._converse()
            except _TROUBLES as error:
                now = clock()
                if now - self._ready_at > pause:  # lasted longer than it was waited for
                    tries, troubled_since = 0, now
                tries += 1
                reason = why_try_again(error, self._address.name)
                pause = self._timeouts.pause(tries)
                timeouts = self._timeouts.resume if self._ready else self._timeouts.first
                if now + pause - troubled_since > timeouts:
                    if isinstance(error, ProtocolError):
                        raise
                    raise UnreachableError(reason) from error
                logger.info("%s; next try in %.1f s", reason, pause)
                await self._deliver(Reconnecting(reason, tries, pause))
                await asyncio.sleep(pause)

    async def _converse(self) -> None:
        """Use one connection to its end, or to that of the session."""
        self._ready_at = math.inf
        connection = await self._address.open(self._path(), self._timeouts.open)
        code: int = CloseCode.NORMAL_CLOSURE
        try:
            with contextlib.suppress(ConnectionClosed):  # reading tells why
                await self._greet(connection)
            await self._get_ready(connection)
            await self._read_and_write(connection)
        except _TROUBLES:
            code = _COMING_BACK
            raise
        finally:
            # A server that reads nothing now would keep even the goodbye waiting.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE_S):
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
            await reader  # knows why the connection is lost, if it is
        finally:
            self._is_connected = False
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _get_ready(self, connection: ClientConnection) -> None:
        """Read what this client has missed, up to `ready`."""
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
                await self._be_ready(message)
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
                raise ProtocolError(f"the server left out message {self._last + 1}")
        self._last = message.seq
        self._has_ended = isinstance(message, v1.End)
        return True

    async def _be_ready(self, ready: v1.Ready) -> None:
        if self._last is None:
            self._last = ready.seq
        elif ready.seq < self._last:
            raise ProtocolError(f"session {ready.session!r} has begun anew since it was left")
        is_first, self._ready = self._ready is None, ready
        self._ready_at = asyncio.get_running_loop().time()
        await self._deliver(ready if is_first else Resumed(ready))

    async def _deliver(self, event: Event) -> None:
        async with self._changed:
            if self._inbox and _supersedes(event, self._inbox[-1]):
                self._inbox.pop()
            self._inbox.append(event)
            self._changed.notify_all()

    @abc.abstractmethod
    def _path(self) -> str:
        """What to ask the server for."""

    @abc.abstractmethod
    async def _greet(self, connection: ClientConnection) -> None:
        """Say what goes before `ready`."""

    @abc.abstractmethod
    async def _write(self, connection: ClientConnection) -> None:
        """Say what goes after `ready`; return when the connection is lost."""


def _supersedes(event: Event, unread: Event) -> bool:
    """Whether nobody needs to see `unread` any more."""
    match event, unread:
        case v1.Partial(), v1.Partial():
            return event.segment == unread.segment
        case Reconnecting(), Reconnecting():
            return True
        case _:
            return False


class Subscription(Conversation):
    """Reads what others say."""

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

    async def _greet(self, connection: ClientConnection) -> None:
        pass

    async def _write(self, connection: ClientConnection) -> None:
        await connection.wait_closed()
