"""The input of a connection that sends audio to a session.

While the session has enough to do, or the client does not read its messages, nothing more is read
from the connection, so that the transport's flow control holds the client back.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

import numpy as np

from streamasr.audio.pcm import PcmDecoder
from streamasr.core.audio_format import AudioFormat
from streamasr.core.errors import AudioError, StreamASRError
from streamasr.core.outgoing import Refused, Reply
from streamasr.core.refusal import RefusalCode, RefusalError
from streamasr.core.requested_options import OptionsChange
from streamasr.core.units import SAMPLE_RATE, Float32Array
from streamasr.host.intake import SLICE
from streamasr.host.live_session import LiveSession
from streamasr.host.reader import Reader
from streamasr.host.session_host import SessionHost
from streamasr.protocols.dialect import (
    Audio,
    ChangeFormat,
    Command,
    Configure,
    FinishSession,
    FlushSegment,
)
from streamasr.server.commands import CommandReader
from streamasr.server.transport import DisconnectedError, Transport, wait_connected

MAX_BACKLOG: Final = 64
"""Entries that may wait for a client; with more, the connection is not read."""

_GRAIN: Final = SAMPLE_RATE // 100
"""Samples that a session takes at least, 10 ms; smaller pieces are collected."""

_TURN: Final = 50
"""Frames, at most, between which no other connection has a turn."""

_NOTHING: Final = np.zeros(0, np.float32)


class AudioInput:
    """Feeds a client's audio to its session. See `streamasr.host.registry.Connection`."""

    def __init__(
        self, transport: Transport, commands: CommandReader, audio: AudioFormat, host: SessionHost
    ) -> None:
        """Prepare for audio of a format.

        Raises:
            RefusalError: the format cannot be decoded.
        """
        self._transport = transport
        self._commands = commands
        self._host = host
        self._decoder: PcmDecoder | None = _decoder(audio, None)
        self._waiting = _NOTHING  # less than a grain
        self._is_held_back = False

    async def is_alive(self, timeout_s: float) -> bool:
        """Tell whether the client answers, or would answer if the connection were read."""
        n_frames = self._commands.n_frames
        try:
            async with asyncio.timeout(timeout_s):
                await self._transport.probe()
        except DisconnectedError:
            return False
        except TimeoutError:  # the answer may wait behind audio that is not read yet
            is_busy = self._is_held_back or self._commands.n_frames > n_frames
            return is_busy and not self._transport.has_left
        return True

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def choose_channel(self, channel: int | None) -> None:
        """Use a channel of the audio from here on; None averages all of them.

        Raises:
            RefusalError: the audio does not have this channel.
        """
        if self._decoder is not None:
            try:
                self._decoder.choose_channel(channel)
            except AudioError as error:
                raise RefusalError(str(error), code=RefusalCode.BAD_VALUE) from error

    async def run(self, live: LiveSession, reader: Reader) -> None:
        """Execute the client's commands until its connection is closed.

        Raises:
            DisconnectedError: the connection is closed.
            CloseRequestedError: the dialect closes it.
            RefusalError: the client sent something that is not allowed, and the dialect closes the
                connection for it.
        """
        n_frames = 0
        while True:
            if len(reader.outbox) >= MAX_BACKLOG:
                await self._hold_back(reader.wait_below(MAX_BACKLOG))
            try:
                await self._execute(await self._commands.next(), live, reader)
            except DisconnectedError:
                await self._feed(self._rest(), live)
                raise
            except RefusalError as refusal:
                if not self._commands.goes_on_after(refusal):
                    raise
                reader.post(Refused(refusal.code, str(refusal)))
            if self._commands.n_frames - n_frames >= _TURN:  # while frames come, nothing else waits
                n_frames = self._commands.n_frames
                await asyncio.sleep(0)

    async def _execute(self, command: Command, live: LiveSession, reader: Reader) -> None:
        match command:
            case Audio(data=data):
                await self._take_audio(data, live)
                return
            case Reply():
                reader.post(command)
                return
        rest = self._rest() if isinstance(command, FinishSession | ChangeFormat) else _NOTHING
        await self._feed(rest, live)
        match command:
            case FinishSession():
                live.intake.finish()
            case FlushSegment():
                if not live.intake.is_finishing:
                    live.intake.flush()
            case Configure(change=change):
                if not live.intake.is_finishing:
                    self._configure(change, live)
            case ChangeFormat(audio=audio):
                self._decoder = _decoder(audio, live.options.channel)
            case _:
                sentence = "a session is open on this connection already"
                raise RefusalError(sentence, code=RefusalCode.OUT_OF_ORDER)

    def _configure(self, change: OptionsChange, live: LiveSession) -> None:
        before = live.options.channel
        self.choose_channel(change.get("channel", before))
        try:
            self._host.configure(live, change)
        except StreamASRError as error:
            self.choose_channel(before)
            raise RefusalError(str(error), code=RefusalCode.BAD_VALUE) from error

    async def _take_audio(self, data: bytes, live: LiveSession) -> None:
        if self._decoder is None:
            raise RefusalError("no audio may follow the end", code=RefusalCode.OUT_OF_ORDER)
        try:
            samples = self._decoder.feed(data)
        except AudioError as error:
            raise RefusalError(str(error), code=RefusalCode.BAD_AUDIO) from error
        if len(self._waiting) + len(samples) < _GRAIN:
            self._waiting = np.concatenate((self._waiting, samples))
        else:
            await self._feed(samples, live)

    def _rest(self) -> Float32Array:
        """Return the samples that the resampler holds back; no audio of this format follows."""
        decoder, self._decoder = self._decoder, None
        return _NOTHING if decoder is None else decoder.finish()

    async def _feed(self, samples: Float32Array, live: LiveSession) -> None:
        """Feed the collected samples and these, unless the session takes no more."""
        samples = np.concatenate((self._waiting, samples)) if len(self._waiting) else samples
        self._waiting = _NOTHING
        for begin in range(0, len(samples), SLICE):
            if not live.intake.has_room(self._host.max_lag):
                await self._hold_back(live.intake.wait_for_room(self._host.max_lag))
            if live.intake.is_finishing:
                return
            live.intake.feed(samples[begin : begin + SLICE])
            await asyncio.sleep(0)

    async def _hold_back(self, until: Coroutine[Any, Any, None]) -> None:
        self._is_held_back = True
        try:
            await wait_connected(self._transport, until)
        finally:
            self._is_held_back = False


def _decoder(audio: AudioFormat, channel: int | None) -> PcmDecoder:
    try:
        return PcmDecoder(audio.encoding, audio.sample_rate, audio.channels, channel)
    except AudioError as error:
        raise RefusalError(str(error), code=RefusalCode.BAD_VALUE) from error
