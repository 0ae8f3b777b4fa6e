"""One WebSocket connection, from its greeting to its goodbye.

A visit is two loops: one reads what the client says, the other sends what the session publishes.
Neither waits for another connection. What a client did wrong is said in an `error` message before
its connection is closed; its session waits for a better one.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from streamasr.core.errors import StreamASRError
from streamasr.host.live_session import LiveSession, Reader
from streamasr.host.requested_options import resumed_wishes
from streamasr.host.session_host import SessionHost
from streamasr.protocols import v1
from streamasr.server.audio_input import MAX_BACKLOG, AudioInput, wait_connected

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long clients are waited for, in seconds."""

    start: float = 10.0
    """For the first message."""
    send: float = 30.0
    """With each message, for a client that reads nothing."""
    close: float = 5.0
    """For the other end to say goodbye, too."""


class ClientConnection:
    """A client in the house."""

    def __init__(
        self, connection: ServerConnection, house: SessionHost, timeouts: Timeouts
    ) -> None:
        """Prepare; `run` does it."""
        self._connection = connection
        self._house = house
        self._timeouts = timeouts

    async def run(self, path: str, query: dict[str, list[str]]) -> None:
        """Talk until the connection is closed.

        Args:
            path: what was asked for, one of the two of `v1`.
            query: with which parameters.
        """
        try:
            if path == v1.STREAM_PATH:
                await self._stream()
            else:
                await self._events(query)
        except ConnectionClosed:
            logger.debug("connection %s is closed", self._connection.id)
        except v1.RefusalError as refusal:
            await self._refuse(refusal)
        except StreamASRError as error:
            await self._refuse(v1.RefusalError(v1.ErrorCode.BAD_VALUE, str(error)))
        except Exception:  # outermost frame of a connection: the others go on
            logger.exception("connection %s failed", self._connection.id)
            sentence = "something went wrong in the daemon; its log says what"
            await self._refuse(v1.RefusalError(v1.ErrorCode.INTERNAL, sentence))

    async def _stream(self) -> None:
        start = await self._receive_start()
        speaker = AudioInput(self._connection, start, self._house)
        await wait_connected(self._connection, self._house.is_ready.wait())
        live = await self._take_place(start, speaker)
        has_sent_all = False
        try:
            if start.session is not None and not live.is_finishing:
                self._resume_wishes(live, start)
            reader = await self._greet(live, start.since or 0)
            with _subscribed(live, reader):
                await _run_both(speaker.speak(live, reader), self._send_all(reader))
            has_sent_all = True
            await self._hang_up(CloseCode.NORMAL_CLOSURE)
        finally:
            said_goodbye = _said_goodbye(self._connection)
            self._house.sessions.detach(
                live.name,
                speaker,
                said_goodbye=said_goodbye,
                has_heard_all=said_goodbye and has_sent_all,
            )

    async def _events(self, query: dict[str, list[str]]) -> None:
        name, since = _read_query(query)
        await wait_connected(self._connection, self._house.is_ready.wait())
        live = self._house.sessions.find(name)
        if since is None:  # from now on; of a session that is over, that leaves its end
            since = live.seq - live.is_over.is_set()
        reader = await self._greet(live, since)
        with _subscribed(live, reader):
            await _run_both(self._answer_pings(reader), self._send_all(reader))
        await self._hang_up(CloseCode.NORMAL_CLOSURE)

    async def _receive_start(self) -> v1.Start:
        try:
            async with asyncio.timeout(self._timeouts.start):
                frame = await self._connection.recv()
        except TimeoutError:
            sentence = f"no 'start' came within {self._timeouts.start:g} s"
            raise v1.RefusalError(v1.ErrorCode.OUT_OF_ORDER, sentence) from None
        if isinstance(frame, bytes):
            sentence = "audio came before 'start', which says how it is encoded"
            raise v1.RefusalError(v1.ErrorCode.OUT_OF_ORDER, sentence)
        message = v1.decode_client(frame)
        if not isinstance(message, v1.Start):
            sentence = "the first message must be 'start'"
            raise v1.RefusalError(v1.ErrorCode.OUT_OF_ORDER, sentence)
        return message

    async def _take_place(self, start: v1.Start, speaker: AudioInput) -> LiveSession:
        name = self._house.begin(start).name if start.session is None else start.session
        return await self._house.sessions.attach(name, speaker)

    def _resume_wishes(self, live: LiveSession, start: v1.Start) -> None:
        if (wishes := resumed_wishes(start)) != v1.Configure():
            self._house.configure(live, wishes)

    async def _greet(self, live: LiveSession, since: int) -> Reader:
        """Send what is kept since a message, then `ready`; from then on the reader hears all."""
        async for text in live.messages_since(since):
            await self._send(text)
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

    async def _answer_pings(self, reader: Reader) -> None:
        while True:
            if len(reader.mailbox) >= MAX_BACKLOG:
                await wait_connected(self._connection, reader.wait_below(MAX_BACKLOG))
            frame = await self._connection.recv()
            message = None if isinstance(frame, bytes) else v1.decode_client(frame)
            if not isinstance(message, v1.Ping):
                sentence = f"{v1.EVENTS_PATH} is for listening only; send to {v1.STREAM_PATH}"
                raise v1.RefusalError(v1.ErrorCode.OUT_OF_ORDER, sentence)
            reader.put(v1.Pong(id=message.id))

    async def _send_all(self, reader: Reader) -> None:
        """Send until the session is over and its end has been sent."""
        try:
            while not (reader.is_closed and not reader.mailbox):
                if reader.mailbox.is_overfull:
                    sentence = "messages are not being read; come back and go on after the last one"
                    raise v1.RefusalError(v1.ErrorCode.TOO_SLOW, sentence)
                if (text := reader.take()) is not None:
                    await self._send(text)
                else:
                    await reader.wait()
        finally:
            reader.close()  # whoever waits for it to take something waits no longer

    async def _send(self, text: str) -> None:
        try:
            async with asyncio.timeout(self._timeouts.send):
                await self._connection.send(text)
        except TimeoutError:
            sentence = f"no message was read for {self._timeouts.send:g} s"
            raise v1.RefusalError(v1.ErrorCode.TOO_SLOW, sentence) from None

    async def _refuse(self, refusal: v1.RefusalError) -> None:
        """Say why, and close."""
        logger.info("connection %s is refused: %s", self._connection.id, refusal)
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(self._timeouts.close):
                await self._connection.send(v1.encode(refusal.message))
        await self._hang_up(refusal.close_code, refusal.code)

    async def _hang_up(self, code: int, reason: str = "") -> None:
        try:
            async with asyncio.timeout(self._timeouts.close):
                await self._connection.close(code, reason)
        except TimeoutError:  # it takes not even that
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
        await asyncio.wait((reader, sender), return_when=asyncio.FIRST_COMPLETED)
        if not sender.done():
            await reader
        try:
            sender.result()
        except ConnectionClosed:
            await reader  # some of what was sent to us may still be unread
            raise
    finally:
        for task in (reader, sender):
            task.cancel()
        await asyncio.gather(reader, sender, return_exceptions=True)


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


def _said_goodbye(connection: ServerConnection) -> bool:
    """Whether it was closed on purpose: at its end, or by a client that had enough before.

    A browser whose page is left is going away; one whose script gives no reason says none.
    """
    if connection.close_code == CloseCode.NORMAL_CLOSURE:
        return True
    was_left = connection.close_code in (CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD)
    return was_left and connection.protocol.close_rcvd_then_sent is True
