"""Publication of a session's messages: to the journal first, then to the readers.

A durable message is in the journal before any reader gets it, so that after a crash no number is
used for two messages. The stable text of a partial is kept before the partial goes out, for the
same reason. Everything here happens on the event loop's thread.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from streamasr.core.hypothesis import StableText
from streamasr.core.messages import Durable, End, Partial
from streamasr.core.notices import Notice
from streamasr.core.orders import Publish
from streamasr.host.archive import Archive
from streamasr.host.outbox import OutboxEntry
from streamasr.host.reader import Reader

logger = logging.getLogger(__name__)

_REPLAY_BATCH: Final = 200


@dataclass(frozen=True, slots=True)
class _Pending:
    """A message that readers have not got, and the journal entry that it waits for."""

    action: Publish
    kept: "Future[None] | None"
    latest: float
    """Time at which it goes out in any case: a disk that hangs delays text and does not stop it."""


class Publisher:
    """Publishes the messages of one session to its readers."""

    def __init__(
        self,
        name: str,
        archive: Archive,
        *,
        seq: int,
        stable_text: StableText | None,
        stable_text_of: Callable[[int], StableText | None],
        journal_timeout_s: float,
    ) -> None:
        """Begin without readers.

        Args:
            name: of the session.
            archive: started.
            seq: number of the last durable message so far.
            stable_text: the stable text that the archive has of the open segment.
            stable_text_of: returns that of a segment at present.
            journal_timeout_s: the longest wait for the journal.
        """
        self.seq = seq
        """Number of the last durable message that was published."""
        self.is_over = asyncio.Event()
        """Set when `End` was published."""
        self._name = name
        self._archive = archive
        self._stable_text = stable_text
        self._stable_text_of = stable_text_of
        self._journal_timeout_s = journal_timeout_s
        self._loop = asyncio.get_running_loop()
        self._readers: list[Reader] = []
        self._pending: deque[_Pending] = deque()

    @property
    def n_readers(self) -> int:
        """Number of readers."""
        return len(self._readers)

    @property
    def is_idle(self) -> bool:
        """Everything was given to the readers."""
        return not self._pending

    def subscribe(self) -> Reader:
        """Return a reader of everything from now on."""
        reader = Reader()
        self._readers.append(reader)
        return reader

    def unsubscribe(self, reader: Reader) -> None:
        """Remove a reader."""
        if reader in self._readers:
            self._readers.remove(reader)

    async def messages_since(self, seq: int) -> AsyncIterator[tuple[int, Durable]]:
        """Yield the durable messages that were published after number `seq`.

        When it ends, nothing was published since the last one: `subscribe` before the next `await`,
        and the reader misses no message and gets none twice.
        """
        while seq < self.seq:
            answer = self._archive.read_messages(self._name, seq, _REPLAY_BATCH)
            batch = [entry for entry in await asyncio.wrap_future(answer) if entry[0] <= self.seq]
            if not batch:
                logger.warning("session %s: messages after %d are lost", self._name, seq)
                return
            for number, message in batch:
                yield number, message
                seq = number

    def publish(self, action: Publish) -> None:
        """Publish a message once the journal has kept it, after those that came before it."""
        latest = self._loop.time() + self._journal_timeout_s
        self._pending.append(_Pending(action, self._keep(action), latest))

    def notify(self, notice: Notice) -> None:
        """Give a notice to the present readers."""
        self._give(OutboxEntry(notice))

    def send_pending(self) -> None:
        """Give the readers what the journal has kept."""
        while self._pending and self._may_go(self._pending[0]):
            action = self._pending.popleft().action
            if action.seq is not None:
                self.seq = action.seq
            self._give(OutboxEntry(action.message, action.seq))
            if isinstance(action.message, End):
                self.end()

    def end(self) -> None:
        """Close the readers; nothing is published any more."""
        self.is_over.set()
        for reader in self._readers:
            reader.close()

    def _keep(self, action: Publish) -> "Future[None] | None":
        """Write what must be on disk before readers get it; None where nothing must be."""
        message, seq = action.message, action.seq
        if isinstance(message, Durable):
            assert seq is not None, "a durable message has a number"
            kept: Future[None] | None = self._archive.append_message(self._name, seq, message)
        else:
            kept = self._keep_stable_text(message) if isinstance(message, Partial) else None
        if kept is not None:
            kept.add_done_callback(lambda _: self._wake())
            self._loop.call_later(self._journal_timeout_s, self.send_pending)
        return kept

    def _keep_stable_text(self, partial: Partial) -> "Future[None] | None":
        """Write the stable text of a partial, if there is more of it than before."""
        stable_text = self._stable_text_of(partial.segment)
        if stable_text is None or stable_text == self._stable_text:
            return None
        self._stable_text = stable_text
        return self._archive.keep_stable_text(self._name, stable_text)

    def _wake(self) -> None:
        """Continue on the event loop's thread; the archive calls this on its own."""
        try:
            self._loop.call_soon_threadsafe(self.send_pending)
        except RuntimeError:
            logger.debug("session %s: the journal answered after the end", self._name)

    def _may_go(self, pending: _Pending) -> bool:
        kept = pending.kept
        return kept is None or kept.done() or self._loop.time() >= pending.latest

    def _give(self, entry: OutboxEntry) -> None:
        for reader in self._readers:
            reader.put(entry)
