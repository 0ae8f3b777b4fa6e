"""Sending audio to a session."""

import contextlib
from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import UNSET, UnsetType, structs
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from streamasr.client.address import Address
from streamasr.client.conversation import Conversation, Timeouts
from streamasr.client.tape import Order, Tape
from streamasr.core.errors import AudioError, ProtocolError
from streamasr.protocols import v1

Audio: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[np.float32 | np.int16]
"""Bytes as the session's encoding says, or samples: (n,) if mono, (n, channels) if not; floats are
-1..1."""

_FRAME_BYTES: Final = 1 << 14
"""Of audio in one frame; half a second at 16 kHz."""

_WAITING_BYTES: Final = 1 << 16
"""With more than this waiting for the connection, so does the caller."""

_FULL_SCALE: Final = 1 << 15


class Stream(Conversation):
    """A session that this program sends audio to; see `connect`.

    Iterate over it for what the server says: `v1.Ready` first, `v1.End` last.
    """

    def __init__(
        self, address: Address, start: v1.Start, timeouts: Timeouts, buffer_s: float
    ) -> None:
        super().__init__(address, start.since or 0, timeouts)
        self._start = start
        self._room = round(buffer_s * start.sample_rate) * start.frame_bytes  # bytes
        self._tape = Tape(self._room)
        self._has_stopped = False

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ProtocolError: the server refuses.
            UnreachableError: there is none.
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
        """Leave; after `stop`, not before the session has ended and so nothing can be lost.

        Raises:
            ProtocolError: the server refuses to go on.
            UnreachableError: there is no server any longer.
        """
        try:
            if self._has_stopped and error is None and not self._has_told:
                await self._wait_until_over()
        finally:
            await super().__aexit__(kind, error, traceback)

    async def _wait_until_over(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_over)
        await self._raise_failure()

    @property
    def ready(self) -> v1.Ready:
        """What the server said last about the session; its name above all."""
        assert self._ready is not None, "a stream is used inside `async with`"
        return self._ready

    async def send(self, audio: Audio) -> None:
        """Send audio, in pieces of any size.

        Waits while the server does not read; when there is no connection, only while more than
        `buffer_s` of audio waits for one. If it is cancelled, the first pieces of the audio may
        have been taken, each of 16 KiB.

        Raises:
            AudioError: the array is none of audio.
            ProtocolError: the session is over.
            UnreachableError: there is no server any longer.
        """
        encoded = encode_audio(audio, self._start)
        for at in range(0, len(encoded), _FRAME_BYTES):
            await self._put(encoded[at : at + _FRAME_BYTES])

    async def configure(
        self,
        *,
        language: str | UnsetType | None = UNSET,
        context: str | UnsetType = UNSET,
        hotwords: Iterable[str] | UnsetType = UNSET,
        partials: bool | UnsetType = UNSET,
        words: bool | UnsetType = UNSET,
    ) -> None:
        """Wish something else from the next segment on; what is left out stays as it is."""
        wishes = v1.Configure(
            language=language,
            context=context,
            hotwords=hotwords if isinstance(hotwords, UnsetType) else tuple(hotwords),
            partials=partials,
            words=words,
        )
        v1.decode_client(v1.encode(wishes))  # refuses here what the server would refuse there
        await self._put(wishes)
        changed = {name: wish for name, wish in structs.asdict(wishes).items() if wish is not UNSET}
        self._start = structs.replace(self._start, **changed)

    async def flush(self) -> None:
        """Have the open segment finished now."""
        await self._put(v1.Flush())

    async def stop(self) -> None:
        """Say that no more audio comes; returns when all of it has been sent.

        What the server still owes follows; iterate for it up to the end.
        """
        if not self._has_stopped:
            await self._put(v1.Stop())
            self._has_stopped = True
        async with self._changed:
            await self._changed.wait_for(lambda: self._tape.is_sent or self._is_over)
        if not self._has_ended and self._is_over:
            await self._raise_failure()

    async def _put(self, said: bytes | Order) -> None:
        async with self._changed:
            if isinstance(said, bytes):
                await self._changed.wait_for(lambda: self._has_room or self._is_over)
            if not self._is_over:
                if self._has_stopped:
                    raise ProtocolError("nothing can be sent after `stop`")
                self._tape.put(said)
                self._changed.notify_all()
                return
        await self._raise_failure()
        raise ProtocolError("the session is over")

    @property
    def _has_room(self) -> bool:
        limit = min(self._room, _WAITING_BYTES) if self._is_connected else self._room
        return self._tape.n_waiting < max(1, limit)

    def _path(self) -> str:
        return v1.STREAM_PATH

    async def _greet(self, connection: ClientConnection) -> None:
        start = self._start
        if self._ready is not None:
            start = structs.replace(start, session=self._ready.session, since=self._last)
        await connection.send(v1.encode(start))

    async def _be_ready(self, ready: v1.Ready) -> None:
        position = self._frame_at(ready) * self._start.frame_bytes
        if self._ready is None:
            self._tape.begin_at(position)
        else:
            self._tape.rewind(position)
        await super()._be_ready(ready)

    def _frame_at(self, ready: v1.Ready) -> int:
        """The next sample of the server, counted as ours.

        Where the server resamples, this is not exact: it may have rounded up.
        """
        frame = round(ready.next_sample * self._start.sample_rate / ready.sample_rate)
        end = self._tape.end // self._start.frame_bytes
        is_rounded = (
            self._ready is not None and end < frame <= end + self._start.sample_rate // 1000
        )
        return end if is_rounded else frame

    async def _write(self, connection: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: not self._tape.is_sent)
                said = self._tape.next()
                await connection.send(said if isinstance(said, bytes) else v1.encode(said))
                async with self._changed:
                    self._tape.advance()
                    self._changed.notify_all()


def encode_audio(audio: Audio, start: v1.Start) -> bytes:
    """Bring audio into the encoding of a session.

    Raises:
        AudioError: the array is none of audio, or not of this session's.
    """
    if not isinstance(audio, np.ndarray):
        return bytes(audio)
    channels = start.channels
    if audio.ndim == 0 or audio.shape[1:] not in ({(), (1,)} if channels == 1 else {(channels,)}):
        shape = "(n,)" if channels == 1 else f"(n, {channels})"
        raise AudioError(f"audio of this session has the shape {shape}, not {audio.shape}")
    if audio.dtype.kind == "f":
        floats = audio
    elif (audio.dtype.kind, audio.itemsize) == ("i", 2):
        if start.encoding == "pcm_s16le":
            return audio.astype("<i2", copy=False).tobytes()
        floats = audio / np.float32(_FULL_SCALE)
    else:
        raise AudioError(f"audio is made of float32 or int16, not of {audio.dtype}")
    if start.encoding == "pcm_f32le":
        return floats.astype("<f4", copy=False).tobytes()
    scaled = np.rint(np.nan_to_num(floats) * _FULL_SCALE)
    return scaled.clip(-_FULL_SCALE, _FULL_SCALE - 1).astype("<i2").tobytes()
