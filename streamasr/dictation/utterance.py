"""Where the messages of an utterance come from: a microphone of our own, or the daemon's.

Push to talk opens a microphone itself and sends each utterance as a session of its own. The
daemon's microphone hears without end: which of its samples belong between press and release nobody
could say to the sample, nor could its session be ended at the release. So the audio is ours from
the first sample to the last, with the pre-roll before it.

Without push to talk there is nothing to cut, and one open microphone is enough: the daemon's.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np

from streamasr import client
from streamasr.audio.capture import Capture, Captured, Missed, Troubled
from streamasr.client import Event, v1
from streamasr.core.errors import AudioError, ProtocolError
from streamasr.core.units import Float32Array, Samples, to_seconds

logger = logging.getLogger(__name__)

_PATIENCE: Final = client.Timeouts(first=30.0)
"""With a daemon that is being started by our connection, say; the audio waits here."""

_SLOW_S: Final = 1.0
"""Without an answer for so long, the speaker is told."""
_NO_ANSWER: Final = (
    f"the daemon does not answer yet; it is waited for, {_PATIENCE.first:g} s at most"
)

_GOODBYE_S: Final = 1.0

_CLOSING_S: Final = 60.0
"""For the final of a segment that was open when listening ended."""


class Utterance(Protocol):
    """What is said from one start to its end."""

    def events(self) -> AsyncGenerator[Event, None]:
        """What is recognised, up to the end.

        Raises:
            StreamASRError: it cannot be recognised.
        """

    def end(self) -> None:
        """Nothing more is said."""


class Source(Protocol):
    """Begins utterances."""

    def begin(self, on_heard: Callable[[], None]) -> Utterance:
        """Listen from now on, or from a little before.

        Args:
            on_heard: called when the first audio is there.
        """

    def running(self) -> "contextlib.AbstractAsyncContextManager[None]":
        """Used inside of it."""


@dataclass(slots=True)
class Ring:
    """The last samples that came."""

    size: Samples
    _blocks: deque[Float32Array] = field(default_factory=deque)
    _n_samples: int = 0

    def put(self, block: Float32Array) -> None:
        """Take the next samples; the oldest go."""
        self._blocks.append(block)
        self._n_samples += len(block)
        while self._blocks and self._n_samples - len(self._blocks[0]) >= self.size:
            self._n_samples -= len(self._blocks.popleft())

    def take(self) -> Float32Array:
        """All that is there, `size` samples at most; afterwards there is nothing."""
        samples = np.concatenate([np.zeros(0, np.float32), *self._blocks])
        self._blocks.clear()
        self._n_samples = 0
        return samples[max(0, len(samples) - self.size) :]


class Speaking:
    """An utterance whose audio we send."""

    def __init__(
        self,
        connect: Callable[[], client.AudioSession],
        on_end: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        self._connect = connect
        self._on_end = on_end
        self._report = report
        self._audio: asyncio.Queue[Float32Array | None] = asyncio.Queue()
        self._has_ended = False

    def put(self, samples: Float32Array) -> None:
        """Take the next samples."""
        if len(samples) and not self._has_ended:
            self._audio.put_nowait(samples)

    def end(self) -> None:
        """See `Utterance.end`."""
        if not self._has_ended:
            self._has_ended = True
            self._audio.put_nowait(None)
            self._on_end()

    async def events(self) -> AsyncGenerator[Event, None]:
        """See `Utterance.events`."""
        slow = asyncio.get_running_loop().call_later(_SLOW_S, self._report, _NO_ANSWER)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(slow.cancel)
            stream = await stack.enter_async_context(self._connect())
            slow.cancel()
            sending = asyncio.create_task(self._send(stream))
            try:
                async for event in stream:
                    yield event
                await sending
            finally:
                sending.cancel()
                await asyncio.wait([sending])
                await _dismiss(stream)

    async def _send(self, stream: client.AudioSession) -> None:
        with contextlib.suppress(client.StreamASRError):  # whoever reads is told
            while (samples := await self._audio.get()) is not None:
                await stream.send(samples)
            await stream.stop()


async def _dismiss(stream: client.AudioSession) -> None:
    """Have the server end a session that is left, which it would keep open for a while."""
    with contextlib.suppress(client.StreamASRError, TimeoutError):
        async with asyncio.timeout(_GOODBYE_S):
            await stream.stop()


class OwnMicrophone:
    """Hears through a device of ours; see `Source`."""

    def __init__(
        self,
        capture: Capture,
        report: Callable[[str], None],
        *,
        pre_roll: Samples,
        **connection: Any,
    ) -> None:
        """Prepare.

        Args:
            capture: the device.
            report: takes a sentence for people.
            pre_roll: audio from before the start that belongs to an utterance; with any, the
                device stays open. Without, it is opened at the start.
            connection: see `client.connect`.
        """
        self._capture = capture
        self._report = report
        self._ring = Ring(pre_roll)
        self._connection = {"words": False, "timeouts": _PATIENCE, **connection}
        self._speaking: Speaking | None = None
        self._on_heard: Callable[[], None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._uses: set[asyncio.Task[None]] = set()
        """Of the device; all but the last one are being ended."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """See `Source.running`."""
        self._listen_if_needed()
        try:
            yield
        finally:
            await self._close()

    def begin(self, on_heard: Callable[[], None]) -> Utterance:
        """See `Source.begin`."""
        self._speaking = Speaking(
            lambda: client.connect(**self._connection), self._stop, self._report
        )
        self._on_heard = on_heard
        self._take(self._ring.take())
        self._listen_if_needed()
        return self._speaking

    def _listen_if_needed(self) -> None:
        is_needed = self._speaking is not None or self._ring.size > 0
        task = self._listening
        if is_needed and (task is None or task.done() or task.cancelling()):
            self._listening = asyncio.create_task(self._listen(set(self._uses)))
            self._uses.add(self._listening)
            self._listening.add_done_callback(self._uses.discard)

    def _stop(self) -> None:
        self._speaking = None
        if not self._ring.size and self._listening is not None:
            self._listening.cancel()

    async def _close(self) -> None:
        if self._listening is not None:
            if not self._listening.cancelling():  # a second time would not wait for the device
                self._listening.cancel()
            await asyncio.wait([self._listening, *self._uses])

    async def _listen(self, before: "set[asyncio.Task[None]]") -> None:
        """Hear until it is over; a device that is still being closed is waited for."""
        if before:
            await asyncio.wait(before)
        try:
            async with contextlib.aclosing(self._capture.events()) as events:
                async for event in events:
                    self._receive(event)
        except AudioError as error:
            self._report(str(error))
        if self._speaking is not None:  # a file is over, or there is no device to be had
            self._speaking.end()

    def _receive(self, event: "Captured | Missed | Troubled") -> None:
        match event:
            case Captured(samples):
                self._take(samples)
            case Missed(duration, reason):
                logger.info("%.2f s of audio are missing: %s", to_seconds(duration), reason)
                self._ring.take()  # what came before it is not what came just before
            case Troubled(message=message):
                self._report(message)

    def _take(self, samples: Float32Array) -> None:
        if self._speaking is None:
            if self._ring.size:
                self._ring.put(samples)
            return
        self._speaking.put(samples)
        if len(samples) and self._on_heard is not None:
            on_heard, self._on_heard = self._on_heard, None
            on_heard()


class DaemonsMicrophone:
    """Reads what the daemon hears; see `Source`."""

    def __init__(self, url: str, *, session: str, token: str | None, timeouts: client.Timeouts):
        """Prepare; the arguments are those of `client.listen`."""
        self._url = url
        self._session = session
        self._token = token
        self._timeouts = timeouts

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """See `Source.running`."""
        yield

    def begin(self, on_heard: Callable[[], None]) -> Utterance:
        """See `Source.begin`."""
        events = client.listen(
            self._url, session=self._session, token=self._token, timeouts=self._timeouts
        )
        return Overheard(events, on_heard)


class Overheard:
    """A part of a session that others speak in: whole segments, the last one to its final."""

    def __init__(self, events: AsyncGenerator[Event, None], on_heard: Callable[[], None]) -> None:
        self._events = events
        self._on_heard = on_heard
        self._ended = asyncio.Event()
        self._open: set[int] = set()

    def end(self) -> None:
        """See `Utterance.end`."""
        self._ended.set()

    async def events(self) -> AsyncGenerator[Event, None]:
        """See `Utterance.events`; segments that begin after the end are left out."""
        async with contextlib.aclosing(self._events) as events:
            while (event := await self._next(events)) is not None:
                if isinstance(event, v1.Ready):
                    self._on_heard()
                if self._belongs(event):
                    yield event

    async def _next(self, events: AsyncGenerator[Event, None]) -> Event | None:
        """The next event; None when nothing is owed any more."""
        if self._ended.is_set():
            return await self._next_owed(events)
        coming = asyncio.ensure_future(anext(events, None))
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait([coming, ended], return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()
            if not self._open:
                return None
            async with asyncio.timeout(_CLOSING_S):
                return await coming
        except TimeoutError as error:
            raise ProtocolError("the last segment has not been finished") from error
        finally:
            ended.cancel()
            coming.cancel()
            await asyncio.wait([ended, coming])

    async def _next_owed(self, events: AsyncGenerator[Event, None]) -> Event | None:
        if not self._open:
            return None
        try:
            async with asyncio.timeout(_CLOSING_S):
                return await anext(events, None)
        except TimeoutError as error:
            raise ProtocolError("the last segment has not been finished") from error

    def _belongs(self, event: Event) -> bool:
        match event:
            case v1.Speech(segment=segment) | v1.Partial(segment=segment):
                if not self._ended.is_set():
                    self._open.add(segment)
                return segment in self._open
            case v1.Final(segment=segment):
                is_ours = segment in self._open or not self._ended.is_set()
                self._open.discard(segment)
                return is_ours
            case v1.Gap():
                self._open.clear()
                return True
            case _:
                return True
