"""One client connection, from its first frame until it is closed, in any dialect and transport.

While a session is open, two loops run: one executes the client's commands, the other sends what the
session publishes. Neither waits for another connection. A refusal is sent before the connection is
closed; its session waits to be resumed.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, cast

from streamasr.core.errors import StreamASRError
from streamasr.core.notices import Notice, NoticeCode
from streamasr.core.outgoing import Refused, Reply, SessionOpened
from streamasr.core.refusal import RefusalCode, RefusalError
from streamasr.core.requested_options import OptionsChange
from streamasr.host.live_session import LiveSession
from streamasr.host.outbox import OutboxEntry
from streamasr.host.reader import Reader
from streamasr.host.session_host import SessionHost
from streamasr.protocols.dialect import (
    Close,
    Codec,
    Command,
    Dialect,
    FollowSession,
    Frame,
    OpenSession,
    RequestHead,
    ResponseHead,
    ResumeSession,
)
from streamasr.server.audio_input import MAX_BACKLOG, AudioInput
from streamasr.server.commands import CloseRequestedError, CommandReader
from streamasr.server.timeouts import Timeouts
from streamasr.server.transport import DisconnectedError, Transport, wait_connected

logger = logging.getLogger(__name__)

_Frames = Iterable[Frame | ResponseHead]


class ClientConnection:
    """Handles one client connection."""

    def __init__(
        self,
        transport: Transport,
        dialect: Dialect,
        request: RequestHead,
        host: SessionHost,
        timeouts: Timeouts,
    ) -> None:
        """Prepare; `run` does the work.

        Args:
            transport: open.
            dialect: of the client.
            request: that the connection began with.
            host: has the sessions.
            timeouts: for this client.
        """
        self._transport = transport
        self._dialect = dialect
        self._codec: Codec = dialect.codec(request, host.model)
        self._commands = CommandReader(transport, self._codec)
        self._host = host
        self._timeouts = timeouts

    async def run(self) -> None:
        """Serve the client until its connection is closed."""
        try:
            await self._serve()
        except DisconnectedError:
            logger.debug("connection %s is closed", self._transport.name)
        except CloseRequestedError as request:
            await self._transport.close(request.close)
        except Exception:  # outermost frame of a connection: the others continue
            logger.exception("connection %s failed", self._transport.name)
            sentence = "the daemon failed to serve this connection; its log has the details"
            refusal = RefusalError(sentence, code=RefusalCode.INTERNAL)
            await self._transport.close(await self._refuse(refusal) or Close())

    async def _serve(self) -> None:
        """Serve one session after the other, as many as the dialect has on a connection."""
        close: Close | None = None
        while close is None:
            try:
                close = await self._serve_session()
            except RefusalError as refusal:
                close = await self._refuse(refusal)
            except StreamASRError as error:
                close = await self._refuse(RefusalError(str(error), code=RefusalCode.BAD_VALUE))
        await self._transport.close(close)

    async def _serve_session(self) -> Close | None:
        """Serve one session to its end; return how to close the connection after it."""
        match await self._receive_opening():
            case FollowSession() as command:
                return await self._follow(command)
            case OpenSession() | ResumeSession() as command:
                return await self._stream(command)
            case _:
                sentence = "a session has to be opened first"
                raise RefusalError(sentence, code=RefusalCode.OUT_OF_ORDER)

    async def _receive_opening(self) -> Command:
        """Wait for a command other than a reply, which is sent at once."""
        while True:
            timeout_s = self._transport.start_timeout_s
            try:
                command = await self._commands.next(timeout_s)
            except TimeoutError:
                sentence = f"no session was opened within {timeout_s:g} s"
                raise RefusalError(sentence, code=RefusalCode.OUT_OF_ORDER) from None
            if not isinstance(command, Reply):
                return command
            await self._send(self._codec.encode(command, None))

    async def _stream(self, command: OpenSession | ResumeSession) -> Close | None:
        """Serve a session that this connection sends audio to."""
        audio_input = AudioInput(self._transport, self._commands, command.audio, self._host)
        await wait_connected(self._transport, self._host.is_ready.wait())
        live = await self._attach(command, audio_input)
        has_sent_end = stays = False
        try:
            if isinstance(command, ResumeSession) and command.change:
                self._change(live, command.change)
            audio_input.choose_channel(live.options.channel)
            since = command.since if isinstance(command, ResumeSession) else 0
            reader = await self._subscribe(live, since)
            with _subscribed(live, reader):
                await self._converse(audio_input.run(live, reader), reader)
            has_sent_end = True
            close = self._codec.close_after_end()
            stays = close is None
            if close is not None:
                await self._transport.close(close)
            return close
        finally:
            can_resume = self._dialect.can_resume
            if not can_resume:
                live.intake.finish()
            is_given_up = stays or self._transport.is_given_up or not can_resume
            self._host.sessions.detach(
                live.name,
                audio_input,
                is_given_up=is_given_up,
                has_received_end=is_given_up and (has_sent_end or not can_resume),
            )

    async def _attach(
        self, command: OpenSession | ResumeSession, audio_input: AudioInput
    ) -> LiveSession:
        if isinstance(command, ResumeSession):
            name = command.session
        else:
            name = self._host.begin(command.options).name
        return await self._host.sessions.attach(name, audio_input)

    def _change(self, live: LiveSession, change: OptionsChange) -> None:
        if not live.intake.is_finishing:
            self._host.configure(live, change)

    async def _follow(self, command: FollowSession) -> Close | None:
        """Serve a session that this connection only reads."""
        await wait_connected(self._transport, self._host.is_ready.wait())
        live = self._host.sessions.find(command.session)
        since = command.since
        if since is None:  # only what is new; of a session that is over, that is its end
            since = live.publisher.seq - live.is_over.is_set()
        reader = await self._subscribe(live, since)
        with _subscribed(live, reader):
            await self._converse(self._answer_follower(reader), reader)
        return self._codec.close_after_end()

    async def _answer_follower(self, reader: Reader) -> None:
        while True:
            if len(reader.outbox) >= MAX_BACKLOG:
                await wait_connected(self._transport, reader.wait_below(MAX_BACKLOG))
            command = await self._commands.next()
            if not isinstance(command, Reply):
                sentence = "this connection only reads a session"
                raise RefusalError(sentence, code=RefusalCode.OUT_OF_ORDER)
            reader.post(command)

    async def _subscribe(self, live: LiveSession, since: int) -> Reader:
        """Send the durable messages since a number; the reader gets everything after them."""
        async for seq, message in live.publisher.messages_since(since):
            await self._send(self._codec.encode(message, seq))
        reader = live.publisher.subscribe()
        reader.post(SessionOpened(live.name, live.publisher.seq, live.intake.position))
        if live.notice:
            reader.post(Notice(NoticeCode.OPTION_IGNORED, live.notice, live.lag))
        if live.is_over.is_set():
            reader.close()
        return reader

    async def _converse(self, reading: Coroutine[Any, Any, None], reader: Reader) -> None:
        """Read and send until the session is over and everything was sent."""
        try:
            await _run_both(reading, self._send_events(reader))
        except CloseRequestedError:
            reader.close()
            await self._send_events(reader)  # what was queued before that
            raise

    async def _send_events(self, reader: Reader) -> None:
        """Send until the session is over and its end was sent."""
        try:
            while not (reader.is_closed and not reader.outbox):
                if reader.outbox.is_overfull:
                    raise RefusalError(
                        "this client does not read its messages; resume after the last one it has",
                        code=RefusalCode.TOO_SLOW,
                    )
                if (entry := reader.take()) is not None:
                    await self._send(self._encode(entry))
                else:
                    await reader.wait()
        finally:
            reader.close()  # nothing waits for room in it any longer

    def _encode(self, entry: OutboxEntry) -> _Frames:
        """Return the frames of an entry; the first connection of a dialect encodes for all."""
        if not self._dialect.shares_frames:
            return self._codec.encode(entry.event, entry.seq)
        frames = entry.encoded.get(self._dialect.name)
        if frames is None:
            frames = tuple(self._codec.encode(entry.event, entry.seq))
            entry.encoded[self._dialect.name] = frames
        return cast("_Frames", frames)

    async def _send(self, frames: _Frames) -> None:
        for frame in frames:
            try:
                async with asyncio.timeout(self._timeouts.send):
                    await self._transport.send(frame)
            except TimeoutError:
                sentence = f"this client has not read any message for {self._timeouts.send:g} s"
                raise RefusalError(sentence, code=RefusalCode.TOO_SLOW) from None

    async def _refuse(self, refusal: RefusalError) -> Close | None:
        """Send a refusal; return how to close the connection after it."""
        logger.info("connection %s is refused: %s", self._transport.name, refusal)
        close = self._codec.close_after(refusal)
        with contextlib.suppress(DisconnectedError, TimeoutError):
            async with asyncio.timeout(self._timeouts.close):
                for frame in self._codec.encode(Refused(refusal.code, str(refusal)), None):
                    await self._transport.send(frame)
        return close


@contextlib.contextmanager
def _subscribed(live: LiveSession, reader: Reader) -> Iterator[None]:
    try:
        yield
    finally:
        live.publisher.unsubscribe(reader)


async def _run_both(reading: Coroutine[Any, Any, None], sending: Coroutine[Any, Any, None]) -> None:
    """Read and send until everything was sent, or one of them fails."""
    reader, sender = asyncio.create_task(reading), asyncio.create_task(sending)
    try:
        await asyncio.wait((reader, sender), return_when=asyncio.FIRST_COMPLETED)
        if not sender.done():
            await reader
        try:
            sender.result()
        except DisconnectedError:
            await reader  # some of what the client sent may still be unread
            raise
    finally:
        for task in (reader, sender):
            task.cancel()
        await asyncio.gather(reader, sender, return_exceptions=True)
