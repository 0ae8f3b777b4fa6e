"""A connection that sends audio to a session.

While the session has enough to do, or the client does not read what it is told, nothing more is
read from the connection, so that TCP holds the client back.
"""

import asyncio
import select
import socket
from collections.abc import Coroutine
from typing import Any, Final

import numpy as np
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from streamasr.audio.pcm import PcmDecoder
from streamasr.core.errors import AudioError
from streamasr.core.units import SAMPLE_RATE, Float32Array
from streamasr.host.live_session import SLICE, LiveSession, Reader
from streamasr.host.session_host import SessionHost
from streamasr.protocols import v1

MAX_BACKLOG: Final = 64
"""Messages that may wait for a client; with more, it is not read."""

_GRAIN: Final = SAMPLE_RATE // 100
"""Samples that are worth a session's while, 10 ms; tinier frames wait for each other."""

_TURN: Final = 50
"""Frames, at most, between which nobody else has a turn."""

_NOTHING: Final = np.zeros(0, np.float32)


class AudioInput:
    """A client that speaks. As `sessions.Connection`, it can lose its place to another one."""

    def __init__(self, connection: ServerConnection, start: v1.Start, house: SessionHost) -> None:
        """Prepare to hear what comes in the encoding that `start` says."""
        self._connection = connection
        self._house = house
        self._decoder: PcmDecoder | None = PcmDecoder(
            start.encoding, start.sample_rate, start.channels
        )
        self._waiting = _NOTHING  # less than a grain
        self._n_frames = 0
        self._is_held_back = False

    async def is_alive(self, timeout_s: float) -> bool:
        """Whether it answers, or would if we were listening."""
        n_frames = self._n_frames
        try:
            async with asyncio.timeout(timeout_s):
                await (await self._connection.ping())
        except ConnectionClosed:
            return False
        except TimeoutError:  # the pong may wait behind audio that we do not read yet
            is_busy = self._is_held_back or self._n_frames > n_frames
            return is_busy and not _has_left(self._connection)
        return True

    def abort(self) -> None:
        """End it without ceremony."""
        self._connection.transport.abort()

    async def speak(self, live: LiveSession, reader: Reader) -> None:
        """Pass on what the client says, until its connection ends.

        Raises:
            ConnectionClosed: in any case but the following.
            RefusalError: it said something wrong.
        """
        while True:
            if len(reader.mailbox) >= MAX_BACKLOG:
                await self._hold_back(reader.wait_below(MAX_BACKLOG))
            try:
                frame = await self._connection.recv()
            except ConnectionClosed:
                await self._hear(self._rest(), live)
                raise
            self._n_frames += 1
            if isinstance(frame, bytes):
                await self._take_audio(frame, live)
            else:
                await self._obey(v1.decode_client(frame), live, reader)
            if self._n_frames % _TURN == 0:  # as long as there are frames, nothing else waits here
                await asyncio.sleep(0)

    async def _take_audio(self, frame: bytes, live: LiveSession) -> None:
        v1.check_audio(frame)
        self._refuse_after_stop()
        assert self._decoder
        try:
            samples = self._decoder.feed(frame)
        except AudioError as error:
            raise v1.RefusalError(v1.ErrorCode.BAD_AUDIO, str(error)) from error
        if len(self._waiting) + len(samples) < _GRAIN:
            self._waiting = np.concatenate((self._waiting, samples))
        else:
            await self._hear(samples, live)

    async def _obey(self, message: v1.ClientMessage, live: LiveSession, reader: Reader) -> None:
        if isinstance(message, v1.Ping):
            reader.put(v1.Pong(id=message.id))
            return
        if isinstance(message, v1.Start):
            sentence = "'start' was sent twice; 'configure' changes a running session"
            raise v1.RefusalError(v1.ErrorCode.OUT_OF_ORDER, sentence)
        self._refuse_after_stop()
        rest = self._rest() if isinstance(message, v1.Stop) else _NOTHING
        await self._hear(rest, live)
        match message:
            case v1.Stop():
                live.finish()
            case v1.Flush() if not live.is_finishing:
                live.flush()
            case v1.Configure() if not live.is_finishing:
                self._house.configure(live, message)

    def _refuse_after_stop(self) -> None:
        if self._decoder is None:
            sentence = "after 'stop' nothing may come but 'ping'"
            raise v1.RefusalError(v1.ErrorCode.OUT_OF_ORDER, sentence)

    def _rest(self) -> Float32Array:
        """What the resampler holds back; no audio follows."""
        decoder, self._decoder = self._decoder, None
        return _NOTHING if decoder is None else decoder.finish()

    async def _hear(self, samples: Float32Array, live: LiveSession) -> None:
        """Have the session take what waits and these, unless it takes no more."""
        samples = np.concatenate((self._waiting, samples)) if len(self._waiting) else samples
        self._waiting = _NOTHING
        for begin in range(0, len(samples), SLICE):
            if not live.has_room(self._house.max_lag):
                await self._hold_back(live.wait_for_room(self._house.max_lag))
            if live.is_finishing:
                return
            live.feed(samples[begin : begin + SLICE])
            await asyncio.sleep(0)

    async def _hold_back(self, until: Coroutine[Any, Any, None]) -> None:
        self._is_held_back = True
        try:
            await wait_connected(self._connection, until)
        finally:
            self._is_held_back = False


async def wait_connected(connection: ServerConnection, until: Coroutine[Any, Any, object]) -> None:
    """Wait for something, at most as long as the connection lasts.

    Raises:
        ConnectionClosed: the connection was lost before.
    """
    waiting = asyncio.ensure_future(until)
    closing = asyncio.ensure_future(connection.wait_closed())
    try:
        await asyncio.wait((waiting, closing), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise connection.protocol.close_exc
        waiting.result()
    finally:
        waiting.cancel()
        closing.cancel()


def _has_left(connection: ServerConnection) -> bool:
    """Whether the other end has closed, though not all that it sent has been read."""
    end: socket.socket | None = connection.transport.get_extra_info("socket")
    if end is None or end.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(end.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))
