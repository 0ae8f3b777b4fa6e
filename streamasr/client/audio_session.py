"""A session that a client sends audio to."""

import contextlib
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType, structs
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from streamasr.client.address import Address
from streamasr.client.resend_buffer import Control, ResendBuffer
from streamasr.client.resumable import ResumableSession
from streamasr.client.timeouts import Timeouts
from streamasr.core.errors import AudioError, ProtocolError
from streamasr.protocols import v1

Audio: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[np.float32 | np.int16]
"""Bytes in the session's encoding, or samples: (n,) if mono, (n, channels) if not; floats are
-1..1."""

_FRAME_BYTES: Final = 1 << 14
"""Of audio in one frame; half a second at 16 kHz."""

_WAITING_BYTES: Final = 1 << 16
"""With more than this waiting for the connection, the caller waits, too."""

_FULL_SCALE: Final = 1 << 15


class AudioSession(ResumableSession):
    """A session that this program sends audio to; see `connect`.

    Iterate over it for the server's messages: `v1.Ready` first, `v1.End` last.
    """

    def __init__(
        self, address: Address, start: v1.Start, timeouts: Timeouts, buffer_s: float
    ) -> None:
        super().__init__(address, start.since or 0, timeouts)
        self._start = start
        self._capacity = round(buffer_s * start.sample_rate) * start.frame_bytes  # bytes
        self._buffer = ResendBuffer(self._capacity)
        self._has_stopped = False

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ProtocolError: the server refuses the connection or the session.
            UnreachableError: no server answers at the address.
        """
        await super().__aenter__()
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: self._ready or self._is_over)
            if self._ready is None:
                await self._raise_failure()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; after `stop`, wait for the end of the session first, so that nothing is lost.

        Raises:
            ProtocolError: the server refuses to continue, or breaks the protocol.
            UnreachableError: the server does not answer any more.
        """
        try:
            if self._has_stopped and error is None and not self._has_raised:
                await self._wait_until_over()
        finally:
            await super().__aexit__(kind, error, traceback)

    async def _wait_until_over(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_over)
        await self._raise_failure()

    @property
    def ready(self) -> v1.Ready:
        """The latest `ready` of the server, with the name of the session."""
        assert self._ready is not None, "an AudioSession is used inside `async with`"
        return self._ready

    async def send(self, audio: Audio) -> None:
        """Send audio, in pieces of any size.

        It waits while the server does not read; without a connection, only while more than
        `buffer_s` of audio waits for one. If it is cancelled, the first pieces of the audio may
        have been taken, each of 16 KiB.

        Raises:
            AudioError: the array has a wrong shape or type.
            ProtocolError: the session is over.
            UnreachableError: the server does not answer any more.
        """
        encoded = encode_audio(audio, self._start)
        for at in range(0, len(encoded), _FRAME_BYTES):
            await self._put(encoded[at : at + _FRAME_BYTES])

    async def configure(
        self,
        *,
        channel: int | Literal["mix"] | UnsetType = UNSET,
        language: str | UnsetType | None = UNSET,
        languages: Iterable[str] | UnsetType = UNSET,
        context: str | UnsetType = UNSET,
        hotwords: Iterable[str] | UnsetType = UNSET,
        partials: bool | UnsetType = UNSET,
        words: bool | UnsetType = UNSET,
    ) -> None:
        """Change options from the next segment on, and the channel at once.

        Options that are left out stay as they are.

        Raises:
            RefusalError: the protocol does not allow a value.
        """
        configure = v1.Configure(
            channel=channel,
            language=language,
            languages=_tuple(languages),
            context=context,
            hotwords=_tuple(hotwords),
            partials=partials,
            words=words,
        )
        v1.decode_client(v1.encode(configure))  # refuses what the server would refuse
        await self._put(configure)
        given = structs.asdict(configure).items()
        changed = {name: value for name, value in given if value is not UNSET}
        self._start = structs.replace(self._start, **changed)

    async def flush(self) -> None:
        """Have the open segment finished now."""
        await self._put(v1.Flush())

    async def stop(self) -> None:
        """Announce that no more audio comes; return when all of it was sent.

        The remaining messages follow; iterate up to the end to receive them.
        """
        if not self._has_stopped:
            await self._put(v1.Stop())
            self._has_stopped = True
        async with self._changed:
            await self._changed.wait_for(lambda: self._buffer.is_sent or self._is_over)
        if not self._has_ended and self._is_over:
            await self._raise_failure()

    async def _put(self, content: bytes | Control) -> None:
        async with self._changed:
            if isinstance(content, bytes):
                await self._changed.wait_for(lambda: self._has_room or self._is_over)
            if not self._is_over:
                if self._has_stopped:
                    raise ProtocolError("nothing can be sent after `stop`", code="sent_after_stop")
                self._buffer.put(content)
                self._changed.notify_all()
                return
        await self._raise_failure()
        raise ProtocolError("the session is over", code="session_over")

    @property
    def _has_room(self) -> bool:
        limit = min(self._capacity, _WAITING_BYTES) if self._is_connected else self._capacity
        return self._buffer.n_waiting < max(1, limit)

    def _path(self) -> str:
        return v1.STREAM_PATH

    async def _open_session(self, connection: ClientConnection) -> None:
        start = self._start
        if self._ready is not None:
            start = structs.replace(start, session=self._ready.session, since=self._last)
        await connection.send(v1.encode(start))

    async def _take_ready(self, ready: v1.Ready) -> None:
        position = self._frame_at(ready) * self._start.frame_bytes
        if self._ready is None:
            self._buffer.begin_at(position)
        else:
            self._buffer.rewind(position)
        await super()._take_ready(ready)

    def _frame_at(self, ready: v1.Ready) -> int:
        """Return the next sample of the server as a count of this client's.

        Where the server resamples, this is not exact: it may have rounded up.
        """
        frame = round(ready.next_sample * self._start.sample_rate / ready.sample_rate)
        end = self._buffer.end // self._start.frame_bytes
        is_rounded = (
            self._ready is not None and end < frame <= end + self._start.sample_rate // 1000
        )
        return end if is_rounded else frame

    async def _write(self, connection: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: not self._buffer.is_sent)
                content = self._buffer.next()
                frame = content if isinstance(content, bytes) else v1.encode(content)
                await connection.send(frame)
                async with self._changed:
                    self._buffer.advance()
                    self._changed.notify_all()


def _tuple(values: Iterable[str] | UnsetType) -> tuple[str, ...] | UnsetType:
    return values if isinstance(values, UnsetType) else tuple(values)


def encode_audio(audio: Audio, start: v1.Start) -> bytes:
    """Bring audio into the encoding of a session.

    Raises:
        AudioError: the array has a wrong shape for the session, or a wrong type.
    """
    if not isinstance(audio, np.ndarray):
        return bytes(audio)
    channels = start.channels
    if audio.ndim == 0 or audio.shape[1:] not in ({(), (1,)} if channels == 1 else {(channels,)}):
        shape = "(n,)" if channels == 1 else f"(n, {channels})"
        raise AudioError(
            f"audio of this session has the shape {shape}, not {audio.shape}",
            code="wrong_audio_shape",
        )
    if audio.dtype.kind == "f":
        floats = audio
    elif (audio.dtype.kind, audio.itemsize) == ("i", 2):
        if start.encoding == "pcm_s16le":
            return audio.astype("<i2", copy=False).tobytes()
        floats = audio / np.float32(_FULL_SCALE)
    else:
        raise AudioError(
            f"audio consists of float32 or int16 values, not of {audio.dtype}",
            code="wrong_audio_type",
        )
    if start.encoding == "pcm_f32le":
        return floats.astype("<f4", copy=False).tobytes()
    scaled = np.rint(np.nan_to_num(floats) * _FULL_SCALE)
    return scaled.clip(-_FULL_SCALE, _FULL_SCALE - 1).astype("<i2").tobytes()
