"""Journal and spool behind one thread, so that a slow or broken disk stops nothing else.

Orders are executed one after the other. When the disk refuses one, the trouble is reported, and
recognition goes on: see `journal_writer` and `spool_writer`. When the disk hangs, orders wait in
memory, up to the limits; later audio is missing in the spool, and later messages are lost.
"""

import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Self

from streamasr.core.hypothesis import StableText
from streamasr.core.messages import Durable
from streamasr.core.notices import NoticeCode
from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array, Samples
from streamasr.storage.journal_writer import JournalWriter
from streamasr.storage.limits import Limits
from streamasr.storage.order_thread import Bound, OrderThread
from streamasr.storage.records import SessionRecord
from streamasr.storage.spool_writer import SpoolWriter
from streamasr.storage.trouble import TroubleReporter


class Store:
    """Journal and spool of all sessions. All methods but `close` return at once; none raises."""

    def __init__(
        self,
        journal: Path,
        spool: Path | None,
        on_trouble: Callable[[NoticeCode, str], None],
        history_days: int = 30,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        """Prepare a store; `start` begins its thread.

        Args:
            journal: path of the database.
            spool: directory of the audio of all sessions; None to spool nothing.
            on_trouble: called with a code and a sentence, in any thread, at most once in
                `limits.report_s` for each code.
            history_days: 0 forgets each session at its end; other values concern `prune` alone.
            limits: times and sizes.
        """
        self.history_days = history_days
        self._troubles = TroubleReporter(on_trouble, limits.report_s)
        self._writers = _Writers(journal, spool, limits, self._troubles)
        self._thread = OrderThread("storage", self._writers)
        self._messages = Bound(limits.changes)
        self._audio_bytes = Bound(limits.audio_bytes)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Write what is left and stop.

        Returns:
            True if everything was written in time; if not, the rest is lost.
        """
        return self._thread.close(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Orders. Positions are samples of the session's clock.

    def begin(self, record: SessionRecord) -> None:
        """Record a session that begins or is resumed."""
        self._thread.submit(lambda: self._writers.begin(record))

    def configure(self, name: str, options: SessionOptions) -> None:
        """Record the new options of a session."""
        self._thread.submit(lambda: self._writers.journal.configure(name, options))

    def append_message(self, name: str, seq: int, message: Durable) -> "Future[None]":
        """Keep a message.

        Returns:
            Done once the message is as safe as it will be for now: in the journal or, when that
            cannot be written, in memory. Never an exception.
        """
        at = time.time()

        def append(done: "Future[None]") -> None:
            settled = partial(self._thread.resolve, done, None)
            self._writers.journal.append(name, seq, message, at, settled)

        try:
            return self._thread.ask(append, None, self._messages)
        except queue.Full:
            self._troubles.report(
                NoticeCode.HISTORY_LOST,
                "The disk is too slow: new messages are not kept in the journal.",
            )
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def keep_stable_text(self, name: str, stable: StableText) -> "Future[None]":
        """Record the stable text of the open segment.

        Returns:
            Done once the text is in the journal, or cannot be for now. Never an exception.
        """

        def keep(done: "Future[None]") -> None:
            try:
                self._writers.journal.keep_stable_text(name, stable)
            finally:
                self._thread.resolve(done, None)

        return self._thread.ask(keep, None)

    def append_audio(self, name: str, position: Samples, samples: Float32Array) -> None:
        """Keep samples that begin at `position`; the caller must not change them any more."""
        try:
            self._order_spool(
                lambda spool: spool.append(name, position, samples),
                self._audio_bytes,
                samples.nbytes,
            )
        except queue.Full:
            self._troubles.report(
                NoticeCode.SPOOL_BEHIND, "The disk is too slow: new audio is not kept in the spool."
            )

    def skip_audio(self, name: str, position: Samples) -> None:
        """Leave missing samples out: the next ones begin at `position`."""
        self._order_spool(lambda spool: spool.skip(name, position))

    def settle(self, name: str, position: Samples) -> None:
        """Delete the audio before `position`, which is not needed any more."""
        self._order_spool(lambda spool: spool.settle(name, position))

    def end(self, name: str) -> None:
        """End a session: delete its audio, and its messages if no history is kept."""
        at = time.time()
        self._thread.submit(
            lambda: self._writers.end(name, at, keeps_messages=self.history_days > 0)
        )

    def forget(self, name: str) -> None:
        """Remove a session with its messages and its audio."""
        self._thread.submit(lambda: self._writers.forget(name))

    def prune(self, days: int) -> None:
        """Remove messages older than `days`; with 0 all of the sessions that have ended."""
        self._thread.submit(lambda: self._writers.journal.prune(days))

    def read_messages(
        self, name: str, since: int, limit: int
    ) -> "Future[list[tuple[int, Durable]]]":
        """Read the first `limit` messages of a session after number `since`.

        Returns:
            Done with all that was appended before, written or not, except what was lost. Never an
            exception.
        """

        def read(answer: "Future[list[tuple[int, Durable]]]") -> None:
            self._thread.resolve(answer, self._writers.journal.read(name, since, limit))

        return self._thread.ask(read, [])

    def _order_spool(
        self, execute: Callable[[SpoolWriter], None], bound: Bound | None = None, size: int = 1
    ) -> None:
        """Queue an order for the spool, if there is one."""
        if spool := self._writers.spool:
            self._thread.submit(lambda: execute(spool), bound, size)


class _Writers:
    """Journal and spool, which know of each other; belongs to the store's thread."""

    def __init__(
        self, journal: Path, spool: Path | None, limits: Limits, troubles: TroubleReporter
    ) -> None:
        self.journal = JournalWriter(journal, limits, troubles, self._release_audio)
        self.spool: SpoolWriter | None = None
        if spool is not None:
            self.spool = SpoolWriter(spool, limits, troubles, self._needs_audio)

    def begin(self, record: SessionRecord) -> None:
        if self.spool:
            self.spool.begin(record.name)
        self.journal.begin(record)

    def end(self, name: str, at: float, *, keeps_messages: bool) -> None:
        if keeps_messages:
            self.journal.end(name, at)
        else:
            self.journal.forget(name)
        if self.spool:
            self.spool.end(name)

    def forget(self, name: str) -> None:
        self.journal.forget(name)
        if self.spool:
            self.spool.end(name)

    # See `order_thread.Work`.

    def pause_s(self) -> float | None:
        return self.journal.pause_s()

    def go_on(self) -> None:
        self.journal.retry_if_due()

    def finish(self) -> bool:
        is_complete = self.journal.finish()
        if self.spool:
            self.spool.close()
        return is_complete

    def _release_audio(self) -> None:
        if self.spool:
            self.spool.release_deferred()

    def _needs_audio(self, name: str) -> bool:
        """Return True if text of a session is only in memory, but can be written later."""
        return self.journal.is_open and self.journal.has_waiting_message(name)
