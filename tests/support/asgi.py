"""A transport made of ASGI messages, and a client at the other end of them.

It shows that `Transport` does not need the project's own server: an ASGI application that calls
`serve` runs any dialect under uvicorn, hypercorn or another server of that kind.
"""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Self

from streamasr.host.session_host import SessionHost
from streamasr.protocols.dialect import Close, Dialect, Frame, RequestHead, ResponseHead
from streamasr.server.connection import ClientConnection
from streamasr.server.timeouts import Timeouts
from streamasr.server.transport import DisconnectedError

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_MAX_WAITING: Final = 4


class AsgiWebSocket:
    """A WebSocket of an ASGI server, accepted. See `Transport`."""

    name = "asgi"

    def __init__(self, receive: Receive, send: Send) -> None:
        self._send = send
        self._frames: deque[Frame] = deque()
        self._changed = asyncio.Condition()
        self._closed = asyncio.Event()
        self._code = 1006
        self._reading = asyncio.create_task(self._read(receive))

    @property
    def is_given_up(self) -> bool:
        return self._closed.is_set() and self._code in (1000, 1001, 1005)

    @property
    def has_left(self) -> bool:
        return self._closed.is_set()

    @property
    def start_timeout_s(self) -> float | None:
        return 10.0

    async def receive(self) -> Frame | None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._frames or self._closed.is_set())
            if not self._frames:
                raise DisconnectedError
            self._changed.notify_all()
            return self._frames.popleft()

    async def send(self, frame: Frame | ResponseHead) -> None:
        if self._closed.is_set():
            raise DisconnectedError
        kind = "text" if isinstance(frame, str) else "bytes"
        await self._send({"type": "websocket.send", kind: frame})

    async def close(self, close: Close) -> None:
        if not self._closed.is_set():
            message = {"type": "websocket.close", "code": close.code, "reason": close.reason}
            await self._send(message)
            await self._end(close.code)

    def abort(self) -> None:
        self._reading.cancel()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    async def probe(self) -> None:
        if self._closed.is_set():
            raise DisconnectedError

    async def _read(self, receive: Receive) -> None:
        code = 1006
        try:
            while (message := await receive())["type"] == "websocket.receive":
                async with self._changed:
                    text = message.get("text")
                    self._frames.append(message["bytes"] if text is None else text)
                    self._changed.notify_all()
                    await self._changed.wait_for(lambda: len(self._frames) <= _MAX_WAITING)
            code = message.get("code", 1005)
        finally:
            await self._end(code)

    async def _end(self, code: int) -> None:
        if not self._closed.is_set():
            self._code = code
            self._closed.set()
            async with self._changed:
                self._changed.notify_all()


async def serve(
    scope: Message, receive: Receive, send: Send, host: SessionHost, dialect: Dialect
) -> None:
    """Serve a WebSocket as an ASGI application does."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    headers = tuple((key.decode(), value.decode()) for key, value in scope["headers"])
    target = f"{scope['path']}?{scope['query_string'].decode()}"
    transport = AsgiWebSocket(receive, send)
    request = RequestHead("GET", target, headers)
    await ClientConnection(transport, dialect, request, host, Timeouts()).run()


class AsgiClient:
    """The other end: what an ASGI server would do for a browser."""

    def __init__(self) -> None:
        self._to_server: asyncio.Queue[Message] = asyncio.Queue(8)
        self._to_client: asyncio.Queue[Message] = asyncio.Queue(8)

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, host: SessionHost, dialect: Dialect, path: str = "/v1/stream", query: str = ""
    ) -> AsyncIterator[Self]:
        client = cls()
        scope = {"type": "websocket", "path": path, "query_string": query.encode(), "headers": []}
        to_server, to_client = client._to_server, client._to_client
        to_server.put_nowait({"type": "websocket.connect"})
        serving = asyncio.create_task(serve(scope, to_server.get, to_client.put, host, dialect))
        assert await to_client.get() == {"type": "websocket.accept"}
        try:
            yield client
            client.leave(1006)
            await serving
        finally:
            serving.cancel()

    async def send(self, frame: str | bytes) -> None:
        kind = "text" if isinstance(frame, str) else "bytes"
        await self._to_server.put({"type": "websocket.receive", kind: frame})

    async def next(self) -> Message:
        message = await self._to_client.get()
        assert message["type"] == "websocket.send", message
        decoded: Message = json.loads(message["text"])
        return decoded

    async def wait_closed(self) -> int:
        """Return the code with which the server closes."""
        message = await self._to_client.get()
        assert message["type"] == "websocket.close", message
        return int(message["code"])

    def leave(self, code: int) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._to_server.put_nowait({"type": "websocket.disconnect", "code": code})
