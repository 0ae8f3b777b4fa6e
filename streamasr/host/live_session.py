"""A live session: a stream, who listens to it, and what of it is on disk.

    samples -> spool, stream -> messages -> journal -> readers

What lasts is in the journal before any reader hears of it, so that after a crash nothing is
said twice under two numbers. Everything here happens on the event loop's thread.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Final, Protocol

from streamasr.core.events import Answer, Recognised
from streamasr.core.hypothesis import StableText
from streamasr.core.messages import Durable, End, Message, Partial
from streamasr.core.messages import Final as FinalText
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Publish
from streamasr.core.units import SAMPLE_RATE, Float32Array, Samples, to_samples, to_seconds
from streamasr.host.outbox import Outbox
from streamasr.pipeline.stream import Beginning, Recogniser, Stream, StreamSettings
from streamasr.protocols import v1

logger = logging.getLogger(__name__)

SLICE: Final = SAMPLE_RATE // 2
"""Samples that are fed in one go; between two slices other sessions have their turn."""

MAX_UNFINISHED: Final = 64
"""Segments whose words may be owed; what bounds the memory where the aligner is slow."""

LIVE_PACE: Final = 1.5
"""Audio that comes faster than this many seconds a second is a file, which may lag."""

_LATE_WORDS_S: Final = 60.0
_LATE_WORDS: Final = 8
"""So many finals of live speech, the oldest so old, wait for their words: the aligner cannot keep
up. Exact times that come minutes later are of less use than rough ones that do not."""

_KEPT_BEFORE: Final = to_samples(10.0)
"""Audio that stays in the spool though it is settled: a restart learns the noise from it."""

_SETTLE_EVERY: Final = to_samples(5.0)
_MARK_EVERY: Final = to_samples(0.01)
_REPLAY_BATCH: Final = 200


class Archive(Protocol):
    """What a session needs of `streamasr.storage.store.Store`."""

    def append_message(self, name: str, seq: int, message: Durable) -> "Future[None]":
        """Keep a message; done when it is kept, or cannot be."""

    def read_messages(
        self, name: str, since: int, limit: int
    ) -> "Future[list[tuple[int, Durable]]]":
        """The messages after number `since`, oldest first, `limit` of them at most."""

    def keep_stable_text(self, name: str, stable: StableText) -> "Future[None]":
        """Keep what listeners of the open segment rely on; done when it is kept, or cannot be."""

    def append_audio(self, name: str, position: Samples, samples: Float32Array) -> None:
        """Keep samples until they are settled."""

    def skip_audio(self, name: str, position: Samples) -> None:
        """What should have come before `position` never will: the next samples begin there."""

    def settle(self, name: str, position: Samples) -> None:
        """No sample before `position` is needed any more."""


class Observer(Protocol):
    """Who measures."""

    def heard(self, n_samples: int) -> None:
        """Audio came in."""

    def worked(self, stage: str, seconds: float) -> None:
        """A part of the recognition (encode, prefill, verify, decode) took so long."""

    def partial_after(self, seconds: float) -> None:
        """A partial was published so long after its last sample had come."""

    def final_after(self, seconds: float) -> None:
        """A final was published so long after its last sample had come."""


class Reader:
    """One connection that listens to a session."""

    def __init__(self) -> None:
        """Begin with nothing to say."""
        self.mailbox = Outbox()
        self.is_closed = False
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()

    def put(self, message: v1.ServerMessage, text: str | None = None) -> None:
        """Have a message sent; `text` is what `v1.encode` makes of it."""
        self.mailbox.put(message, v1.encode(message) if text is None else text)
        self._filled.set()

    def take(self) -> str | None:
        """The text of the next message to send; None when there is none."""
        text = self.mailbox.take()
        self._emptied.set()
        return text

    def close(self) -> None:
        """Nobody sends any more."""
        self.is_closed = True
        self._filled.set()
        self._emptied.set()

    async def wait(self) -> None:
        """Wait for something to send, or for the end."""
        while not self.mailbox and not self.is_closed:
            self._filled.clear()
            await self._filled.wait()

    async def wait_below(self, n_messages: int) -> None:
        """Wait until fewer messages are waiting, or for the end."""
        while len(self.mailbox) >= n_messages and not self.is_closed:
            self._emptied.clear()
            await self._emptied.wait()


@dataclass(slots=True)
class _Arrivals:
    """When the samples came, to tell how long their text took."""

    marks: deque[tuple[Samples, float]] = field(default_factory=deque)

    def note(self, position: Samples, now: float) -> None:
        if len(self.marks) > 1 and position - self.marks[-2][0] < _MARK_EVERY:
            self.marks.pop()  # many tiny blocks count as one
        self.marks.append((position, now))

    def since(self, position: Samples, now: float) -> float | None:
        """Seconds since the sample before `position` came; None where that is forgotten."""
        return next((now - at for end, at in self.marks if end >= position), None)

    def forget_before(self, position: Samples) -> None:
        while self.marks and self.marks[0][0] < position:
            self.marks.popleft()


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A message that readers have not been sent, and what they wait for."""

    action: Publish
    kept: "Future[None] | None"
    latest: float
    """When it goes out in any case: a disk that hangs delays text, but does not hold it back."""


class LiveSession:
    """A session of the daemon, from its first sample until its end has been said."""

    def __init__(
        self,
        name: str,
        wishes: SessionOptions,
        *,
        recogniser: Recogniser,
        settings: StreamSettings,
        archive: Archive,
        observer: Observer,
        beginning: Beginning,
        journal_timeout_s: float = 2.0,
    ) -> None:
        """Begin a session, or go on with one.

        Args:
            name: of the session.
            wishes: until `configure` changes them.
            recogniser: started.
            settings: for all of the session.
            archive: started.
            observer: who measures.
            beginning: where.
            journal_timeout_s: when a message goes out though the journal has not said a word.
        """
        self.name = name
        self.wishes = wishes
        self.is_over = asyncio.Event()
        """Set when `End` has been published."""
        self.is_finishing = False
        """No more audio is taken."""
        self._loop = asyncio.get_running_loop()
        self._archive = archive
        self._observer = observer
        self._journal_timeout_s = journal_timeout_s
        self._readers: list[Reader] = []
        self._outgoing: deque[_Outgoing] = deque()
        self._seq = beginning.published.seq
        self._settled = beginning.position
        self._arrivals = _Arrivals()
        self._began = time.monotonic()
        self._began_at = beginning.position
        self._progressed = asyncio.Event()
        self._promise = beginning.published.stable  # the last one that was kept
        self._n_dropped = 0  # samples, since there was room
        self._stream = Stream(recogniser, settings, wishes, self._deliver, beginning)

    @property
    def seq(self) -> int:
        """Number of the last lasting message that has been published."""
        return self._seq

    @property
    def position(self) -> Samples:
        """Where the next sample belongs."""
        return self._stream.position

    @property
    def lag_s(self) -> float:
        """Seconds of finished speech whose text is still owed."""
        return to_seconds(self._stream.session.n_waiting_samples)

    @property
    def pace(self) -> float:
        """Seconds of audio for each second since the session began."""
        elapsed = max(time.monotonic() - self._began, 1e-3)
        return to_seconds(self.position - self._began_at) / elapsed

    @property
    def is_settled(self) -> bool:
        """Nothing is owed for the audio so far."""
        return self._stream.session.is_settled and not self._outgoing

    @property
    def n_readers(self) -> int:
        """How many listen."""
        return len(self._readers)

    def has_room(self, max_lag: Samples) -> bool:
        """Whether more audio may be taken."""
        n_unfinished = self._stream.session.n_unfinished
        return self._stream.has_room(max_lag) and n_unfinished < MAX_UNFINISHED

    async def wait_for_room(self, max_lag: Samples) -> None:
        """Wait until more audio may be taken."""
        while not self.has_room(max_lag):
            self._progressed.clear()
            await self._progressed.wait()

    def feed(self, samples: Float32Array) -> None:
        """Take the next samples, (n,) float32, at most `SLICE` or so."""
        self._archive.append_audio(self.name, self.position, samples)
        self.replay_audio(samples)
        self._spread_late_words()

    def _spread_late_words(self) -> None:
        session = self._stream.session
        if session.n_awaiting_words < _LATE_WORDS or self.pace > LIVE_PACE:
            return
        oldest = self.position if session.owed_from is None else session.owed_from
        if to_seconds(self.position - oldest) > _LATE_WORDS_S:
            logger.warning("session %s: words cannot keep up and are spread", self.name)
            self._stream.spread_words()

    def warm_up(self, samples: Float32Array) -> None:
        """Hear audio that is settled, before the first samples."""
        self._stream.warm_up(samples)

    def replay_audio(self, samples: Float32Array) -> None:
        """Take samples that are in the spool already."""
        self._observer.heard(len(samples))
        self._publish(self._stream.feed(samples))
        self._arrivals.note(self.position, self._loop.time())

    def feed_or_drop(self, samples: Float32Array, max_lag: Samples) -> None:
        """Take samples that cannot wait; they become a gap where there is no room for them."""
        if not self.has_room(max_lag):
            self._n_dropped += len(samples)
            return
        self._own_up()
        self.feed(samples)

    def _own_up(self) -> None:
        """Put a gap where samples were dropped, before anything else has that place."""
        if self._n_dropped:
            n_dropped, self._n_dropped = Samples(self._n_dropped), 0
            self.skip(n_dropped, "overload")

    def skip(self, n_samples: Samples, reason: str) -> None:
        """Leave out samples that will never come."""
        self._own_up()
        self._archive.skip_audio(self.name, Samples(self.position + n_samples))
        self._publish(self._stream.skip(n_samples, reason))

    def flush(self) -> None:
        """Finish the open segment."""
        self._own_up()
        self._publish(self._stream.flush())

    def configure(self, wishes: SessionOptions) -> None:
        """Change what is wished for, from the next segment on."""
        self.wishes = wishes
        self._publish(self._stream.configure(wishes))

    def restore(self, final: FinalText, samples: Float32Array) -> None:
        """Have the words found that a final lacked when the daemon ended."""
        self._publish(self._stream.restore(final, samples))

    def finish(self) -> None:
        """Take no more audio; `is_over` is set when everything owed has been published."""
        if not self.is_finishing:
            self._own_up()
            self.is_finishing = True
            self._publish(self._stream.finish())

    def mark_over(self) -> None:
        """Its end was published before a restart."""
        self.is_finishing = True
        self._end()

    def warn(self, code: str, message: str) -> None:
        """Tell everyone who listens now."""
        self._send(v1.Warning(code=code, message=message, lag=round(self.lag_s, 3)))

    def close(self) -> None:
        """Forget what has not been done yet."""
        self._stream.close()

    def subscribe(self) -> Reader:
        """Listen to everything from now on."""
        reader = Reader()
        self._readers.append(reader)
        return reader

    def unsubscribe(self, reader: Reader) -> None:
        """Listen no longer."""
        if reader in self._readers:
            self._readers.remove(reader)

    async def messages_since(self, seq: int) -> AsyncIterator[str]:
        """Everything that lasts and has been published after number `seq`, encoded.

        When it ends, nothing has been published since the last one: `subscribe` before the next
        `await`, and no message is missed or heard twice.
        """
        while seq < self._seq:
            answer = self._archive.read_messages(self.name, seq, _REPLAY_BATCH)
            batch = [entry for entry in await asyncio.wrap_future(answer) if entry[0] <= self._seq]
            if not batch:
                logger.warning("session %s: messages after %d are lost", self.name, seq)
                return
            for number, message in batch:
                yield v1.encode(v1.from_event(message, number))
                seq = number

    # What follows is called when something has been recognised.

    def _deliver(self, answer: Answer) -> None:
        """Bring an answer of the engine from its thread to ours."""
        try:
            self._loop.call_soon_threadsafe(self._receive, answer)
        except RuntimeError:  # the loop is closed: nobody listens any more
            logger.debug("session %s: an answer came after the end", self.name)

    def _receive(self, answer: Answer) -> None:
        self._measure_work(answer)
        self._publish(self._stream.receive(answer))
        self._progressed.set()

    def _publish(self, published: list[Publish]) -> None:
        for action in published:
            self._measure(action.message)
            kept = self._keep(action)
            latest = self._loop.time() + self._journal_timeout_s
            self._outgoing.append(_Outgoing(action, kept, latest))
        self._send_outgoing()
        self._settle()

    def _keep(self, action: Publish) -> "Future[None] | None":
        """Have the disk know before any reader does; None for what nobody relies on."""
        message, seq = action.message, action.seq
        if isinstance(message, Durable):
            assert seq is not None, "a lasting message has a number"
            kept: Future[None] | None = self._archive.append_message(self.name, seq, message)
        else:
            kept = self._keep_promise(message) if isinstance(message, Partial) else None
        if kept is not None:
            kept.add_done_callback(lambda _: self._wake())
            self._loop.call_later(self._journal_timeout_s, self._send_outgoing)
        return kept

    def _keep_promise(self, partial: Partial) -> "Future[None] | None":
        """Keep what this partial promises, if that is more than before."""
        promise = self._stream.session.stable_text(partial.segment)
        if promise is None or promise == self._promise:
            return None
        self._promise = promise
        return self._archive.keep_stable_text(self.name, promise)

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._send_outgoing)
        except RuntimeError:
            logger.debug("session %s: the journal answered after the end", self.name)

    def _send_outgoing(self) -> None:
        while self._outgoing and self._may_go(self._outgoing[0]):
            action = self._outgoing.popleft().action
            if action.seq is not None:
                self._seq = action.seq
            self._send(v1.from_event(action.message, action.seq))
            if isinstance(action.message, End):
                self._end()
        self._progressed.set()

    def _end(self) -> None:
        self.is_over.set()
        for reader in self._readers:
            reader.close()

    def _may_go(self, outgoing: _Outgoing) -> bool:
        kept = outgoing.kept
        return kept is None or kept.done() or self._loop.time() >= outgoing.latest

    def _send(self, message: v1.ServerMessage) -> None:
        text = v1.encode(message)
        for reader in self._readers:
            reader.put(message, text)

    def _settle(self) -> None:
        settled = self._stream.settled_until
        self._arrivals.forget_before(settled)
        if settled - self._settled >= _SETTLE_EVERY:
            self._settled = settled
            self._archive.settle(self.name, Samples(max(0, settled - _KEPT_BEFORE)))

    def _measure_work(self, answer: Answer) -> None:
        if isinstance(answer, Recognised):
            for stage, seconds in asdict(answer.costs).items():
                self._observer.worked(stage, seconds)

    def _measure(self, message: Message) -> None:
        if not isinstance(message, Partial | FinalText):
            return
        seconds = self._arrivals.since(message.end, self._loop.time())
        if seconds is None:
            return
        if isinstance(message, Partial):
            self._observer.partial_after(seconds)
        else:
            self._observer.final_after(seconds)
