"""Sources of the messages of an utterance: a microphone of this process, or the daemon's.

Push to talk opens a microphone itself and sends each utterance as a session of its own. The
daemon's microphone records all the time: its samples between press and release could not be
determined exactly, and its session could not be ended at the release. With a microphone of its own,
dictation controls the audio from the first sample to the last, including the pre-roll.

Without push to talk there are no such limits, and one open microphone suffices: the daemon's.
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

_TIMEOUTS: Final = client.Timeouts(first=30.0)
"""Time allowed for a connection, for example while it starts the daemon; the audio is queued."""

_SLOW_S: Final = 1.0
"""Time without an answer after which a message is shown to the speaker."""
_NO_ANSWER: Final = (
    f"the daemon does not answer yet; waiting for it for up to {_TIMEOUTS.first:g} s"
)

_STOP_TIMEOUT_S: Final = 1.0
"""Time allowed to send the stop of an abandoned session."""

_FINAL_TIMEOUT_S: Final = 60.0
"""Time allowed for the final of a segment that was open at the end of the utterance."""


class Utterance(Protocol):
    """Speech from one start to its end."""

    def events(self) -> AsyncGenerator[Event, None]:
        """Yield the events of the recognition until the end of the utterance.

        Raises:
            StreamASRError: the connection or the recognition failed.
        """

    def end(self) -> None:
        """End the recording; the events of its text still follow."""


class Source(Protocol):
    """Source of utterances."""

    def begin(self, on_audio: Callable[[], None]) -> Utterance:
        """Begin an utterance now or, with pre-roll, a little earlier.

        Args:
            on_audio: called when the first audio has arrived.
        """

    def running(self) -> "contextlib.AbstractAsyncContextManager[None]":
        """Return the context within which utterances can be begun."""


@dataclass(slots=True)
class Ring:
    """Ring buffer of the latest samples."""

    size: Samples
    _blocks: deque[Float32Array] = field(default_factory=deque)
    _n_samples: int = 0

    def put(self, block: Float32Array) -> None:
        """Append samples, and drop the oldest ones beyond the size."""
        self._blocks.append(block)
        self._n_samples += len(block)
        while self._blocks and self._n_samples - len(self._blocks[0]) >= self.size:
            self._n_samples -= len(self._blocks.popleft())

    def take(self) -> Float32Array:
        """Remove and return the content, at most `size` samples."""
        samples = np.concatenate([np.zeros(0, np.float32), *self._blocks])
        self._blocks.clear()
        self._n_samples = 0
        return samples[max(0, len(samples) - self.size) :]


class StreamedUtterance:
    """Utterance whose audio is sent to the daemon, as a session of its own."""

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
        """Append samples, unless the utterance has ended."""
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
                await _stop(stream)

    async def _send(self, stream: client.AudioSession) -> None:
        with contextlib.suppress(client.StreamASRError):  # the reader of the stream gets the error
            while (samples := await self._audio.get()) is not None:
                await stream.send(samples)
            await stream.stop()


async def _stop(stream: client.AudioSession) -> None:
    """Stop an abandoned session, which the server would keep open for a while otherwise."""
    with contextlib.suppress(client.StreamASRError, TimeoutError):
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await stream.stop()


class OwnMicrophone:
    """Source with a capture device of this process; see `Source`."""

    def __init__(
        self,
        capture: Capture,
        report: Callable[[str], None],
        *,
        pre_roll: Samples,
        **connection: Any,
    ) -> None:
        """Create a source; `running` opens the device.

        Args:
            capture: capture device.
            report: shows a sentence to the user.
            pre_roll: length of the audio before the start that belongs to an utterance. With
                pre-roll the device stays open; without, it is opened at each start.
            connection: arguments of `client.connect`.
        """
        self._capture = capture
        self._report = report
        self._ring = Ring(pre_roll)
        self._connection = {"words": False, "timeouts": _TIMEOUTS, **connection}
        self._current: StreamedUtterance | None = None
        self._on_heard: Callable[[], None] | None = None
        self._recording: asyncio.Task[None] | None = None
        self._uses: set[asyncio.Task[None]] = set()
        """Tasks that use the device; all but the last one are about to end."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """See `Source.running`."""
        self._record_if_needed()
        try:
            yield
        finally:
            await self._close()

    def begin(self, on_audio: Callable[[], None]) -> Utterance:
        """See `Source.begin`."""
        self._current = StreamedUtterance(
            lambda: client.connect(**self._connection), self._stop, self._report
        )
        self._on_heard = on_audio
        self._take(self._ring.take())
        self._record_if_needed()
        return self._current

    def _record_if_needed(self) -> None:
        is_needed = self._current is not None or self._ring.size > 0
        task = self._recording
        if is_needed and (task is None or task.done() or task.cancelling()):
            self._recording = asyncio.create_task(self._record(set(self._uses)))
            self._uses.add(self._recording)
            self._recording.add_done_callback(self._uses.discard)

    def _stop(self) -> None:
        self._current = None
        if not self._ring.size and self._recording is not None:
            self._recording.cancel()

    async def _close(self) -> None:
        if self._recording is not None:
            if (
                not self._recording.cancelling()
            ):  # a second cancellation would not wait for the device
                self._recording.cancel()
            await asyncio.wait([self._recording, *self._uses])

    async def _record(self, before: "set[asyncio.Task[None]]") -> None:
        """Record until the source ends; first wait for earlier uses of the device to close it."""
        if before:
            await asyncio.wait(before)
        try:
            async with contextlib.aclosing(self._capture.events()) as events:
                async for event in events:
                    self._receive(event)
        except AudioError as error:
            self._report(str(error))
        if self._current is not None:  # end of a file, or no usable device
            self._current.end()

    def _receive(self, event: "Captured | Missed | Troubled") -> None:
        match event:
            case Captured(samples):
                self._take(samples)
            case Missed(duration, reason):
                logger.info("%.2f s of audio are missing: %s", to_seconds(duration), reason)
                self._ring.take()  # audio before the gap does not belong into the pre-roll
            case Troubled(message=message):
                self._report(message)

    def _take(self, samples: Float32Array) -> None:
        if self._current is None:
            if self._ring.size:
                self._ring.put(samples)
            return
        self._current.put(samples)
        if len(samples) and self._on_heard is not None:
            on_audio, self._on_heard = self._on_heard, None
            on_audio()


class DaemonMicrophone:
    """Source that follows the session of the daemon's microphone; see `Source`."""

    def __init__(self, url: str, *, session: str, token: str | None, timeouts: client.Timeouts):
        """Create a source; the arguments are those of `client.listen`."""
        self._url = url
        self._session = session
        self._token = token
        self._timeouts = timeouts

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """See `Source.running`."""
        yield

    def begin(self, on_audio: Callable[[], None]) -> Utterance:
        """See `Source.begin`."""
        events = client.listen(
            self._url, session=self._session, token=self._token, timeouts=self._timeouts
        )
        return MonitoredUtterance(events, on_audio, self._session)


class MonitoredUtterance:
    """Part of a session with audio of another source: whole segments, the last up to its final."""

    def __init__(
        self, events: AsyncGenerator[Event, None], on_audio: Callable[[], None], session: str
    ) -> None:
        self._events = events
        self._session = session
        self._on_heard = on_audio
        self._ended = asyncio.Event()
        self._open: set[int] = set()

    def end(self) -> None:
        """See `Utterance.end`."""
        self._ended.set()

    async def events(self) -> AsyncGenerator[Event, None]:
        """See `Utterance.events`; segments that begin after the end are skipped."""
        async with contextlib.aclosing(self._events) as events:
            while (event := await self._next(events)) is not None:
                if isinstance(event, v1.Ready):
                    self._on_heard()
                if self._belongs(event):
                    yield event

    async def _next(self, events: AsyncGenerator[Event, None]) -> Event | None:
        """Return the next event; None when no more text is pending."""
        if self._ended.is_set():
            return await self._next_pending(events)
        coming = asyncio.ensure_future(anext(events, None))
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait([coming, ended], return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()
            if not self._open:
                return None
            async with asyncio.timeout(_FINAL_TIMEOUT_S):
                return await coming
        except TimeoutError as error:
            raise self._timeout() from error
        finally:
            ended.cancel()
            coming.cancel()
            await asyncio.wait([ended, coming])

    async def _next_pending(self, events: AsyncGenerator[Event, None]) -> Event | None:
        if not self._open:
            return None
        try:
            async with asyncio.timeout(_FINAL_TIMEOUT_S):
                return await anext(events, None)
        except TimeoutError as error:
            raise self._timeout() from error

    def _timeout(self) -> ProtocolError:
        return ProtocolError(
            f"the daemon did not finish the last segment of the session {self._session!r} within"
            f" {_FINAL_TIMEOUT_S:g} s; its text is in `streamasr history` once it is recognised.",
            code="final_timeout",
        )

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
