"""The one thread that writes to the disk, so that a slow or broken one stops nobody else.

Orders are carried out one after the other. What the disk refuses is reported, and recognition goes
on:

* Changes of the journal wait in memory, in order, and are tried again: soon when another program
  has locked it, every `Limits.retry_s` otherwise. Meanwhile they can be read like those on the
  disk. When too many wait, the oldest message is lost.
* Audio that cannot be spooled is missing in the spool, which is tried again later. It is missing
  too when the disk hangs and too much of it waits for its turn.

While a message waits, the audio it came from stays in the spool, even if it is settled or its
session is over: if the process dies before the journal can be written, that audio is recognised
once more. Unless the spool itself cannot be written: then what can be deleted is.
"""

import collections
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar

from streamasr.core.errors import StorageError
from streamasr.core.hypothesis import StableText
from streamasr.core.messages import Durable
from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array, Samples
from streamasr.storage.journal import Journal, JournalLockedError, JournalOrderError, SessionRecord
from streamasr.storage.spool import MAX_BYTES, Spool, SpoolFullError, delete_spool

logger = logging.getLogger(__name__)

Trouble: TypeAlias = Literal["journal", "history_lost", "spool", "spool_full", "spool_behind"]
"""The journal cannot be written, messages wait in memory; messages were given up; audio cannot be
spooled; more audio waits for its final than is kept; the disk is too slow for the audio."""

ResultT = TypeVar("ResultT")

_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how much the store waits."""

    busy_timeout_s: float = 1.0
    """For another program that writes to the journal."""
    retry_locked_s: float = 0.5
    """Between two attempts after that."""
    retry_s: float = 10.0
    """Between two attempts after any other failure."""
    report_s: float = 60.0
    """Between two reports of the same trouble."""
    changes: int = 10_000
    """That wait for the journal, in memory."""
    audio_bytes: int = 64 << 20
    """That wait for the spool, in memory: 17 minutes of one session."""
    spool_bytes: int = MAX_BYTES
    """Of one session, on the disk."""


@dataclass(slots=True)
class _Change:
    """A change of the journal."""

    name: str
    make: Callable[[Journal], object]
    role: Literal["begin", "message", "end", "other"] = "other"
    message: tuple[int, Durable] | None = None
    done: "Future[None] | None" = None


@dataclass(slots=True)
class _Audio:
    """The spooled audio of one session."""

    spool: Spool | None = None
    is_broken: bool = False
    retry_at: float = 0.0  # monotonic seconds, if broken
    settled: Samples = Samples(0)  # noqa: RUF009 - an int
    is_over: bool = False


class Store:
    """Journal and spool, behind a thread. All methods return at once and never raise."""

    def __init__(
        self,
        journal: Path,
        spool: Path | None,
        on_trouble: Callable[[Trouble, str], None],
        history_days: int = 30,
        limits: Limits = Limits(),
    ) -> None:
        """Prepare a store; `start` begins its thread.

        Args:
            journal: of the database.
            spool: the directory for the audio of all sessions; None to spool nothing.
            on_trouble: told a code and a sentence, from any thread, at most once in
                `limits.report_s` for each code.
            history_days: 0 forgets each session at its end; other values concern `prune` alone.
            limits: how long and how much to wait.
        """
        self.history_days = history_days
        self._path = journal
        self._spool_root = spool
        self._on_trouble = on_trouble
        self._limits = limits
        self._changed = threading.Condition()
        self._orders: collections.deque[tuple[Callable[[], None], int]] = collections.deque()
        self._audio_bytes = 0  # of audio among the orders
        self._n_messages = 0  # among the orders
        self._promises: dict[Future[Any], Any] = {}  # and what they get when we give up
        self._is_closing = False
        self._is_complete = False  # everything was carried out
        self._reported: dict[Trouble, float] = {}  # monotonic seconds
        self._thread = threading.Thread(target=self._run, name="storage", daemon=True)
        # What follows belongs to the thread.
        self._journal: Journal | None = None
        self._waiting: collections.deque[_Change] = collections.deque()
        self._retry_at = 0.0  # monotonic seconds, if changes wait
        self._is_failing = False  # not only locked
        self._live: dict[str, SessionRecord] = {}
        self._audio: dict[str, _Audio] = {}
        self._deferred: set[str] = set()  # sessions whose audio can go when nothing waits

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Write what is left and stop.

        Returns:
            Whether everything was written in time; if not, the rest is lost.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        with self._changed:
            self._orders.clear()
            promises = list(self._promises.items())
        for promise, result in promises:
            self._resolve(promise, result)
        return self._is_complete

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, record: SessionRecord) -> None:
        """Note a session that begins or is resumed."""
        self._order(partial(self._begin, record))

    def configure(self, name: str, wishes: SessionOptions) -> None:
        """Note the new wishes of a session's listeners."""
        self._order(partial(self._configure, name, wishes))

    def append_message(self, name: str, seq: int, message: Durable) -> "Future[None]":
        """Keep a message.

        Returns:
            Done once the message is as safe as it will be for now: in the journal or, when that
            cannot be written, in memory. Never an exception.
        """
        at = time.time()
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # from here on it cannot be cancelled
        change = _Change(
            name, lambda to: to.append(name, seq, message, at), "message", (seq, message), done
        )
        with self._changed:
            has_room = self._n_messages < self._limits.changes
            if has_room and not self._is_closing:
                self._n_messages += 1
                self._promises[done] = None
                self._orders.append((partial(self._take_message, change), 0))
                self._changed.notify()
                return done
        if not has_room:
            self._report("history_lost", "The disk is so slow that messages are not kept.")
        done.set_result(None)
        return done

    def keep_promise(self, name: str, promise: StableText) -> "Future[None]":
        """Note what listeners of the open segment rely on.

        Returns:
            Done once that is in the journal, or cannot be for now. Never an exception.
        """
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()
        with self._changed:
            self._promises[done] = None
        if not self._order(partial(self._keep_promise, name, promise, done)):
            self._resolve(done, None)
        return done

    def append_audio(self, name: str, position: Samples, samples: Float32Array) -> None:
        """Keep samples that begin at `position`; they must not be changed any more."""
        if self._spool_root is None:
            return
        if self._audio_bytes + samples.nbytes > self._limits.audio_bytes:
            self._report("spool_behind", "The disk is so slow that audio is not kept.")
            return
        self._order(partial(self._spool_audio, name, position, samples), samples.nbytes)

    def skip_audio(self, name: str, position: Samples) -> None:
        """What should have come before `position` never will: the next samples begin there."""
        if self._spool_root is not None:
            self._order(partial(self._skip_audio, name, position))

    def settle(self, name: str, position: Samples) -> None:
        """Nobody needs the audio before `position` any more."""
        if self._spool_root is not None:
            self._order(partial(self._settle, name, position))

    def end(self, name: str) -> None:
        """A session is over. Its audio goes, and its messages if no history is kept."""
        at = time.time()
        self._order(partial(self._end, name, at))

    def forget(self, name: str) -> None:
        """Remove all of a session."""
        self._order(partial(self._forget, name))

    def prune(self, days: int) -> None:
        """Remove messages older than that; with 0 every session that has ended."""
        self._order(partial(self._prune, days))

    def read_messages(
        self, name: str, since: int, limit: int
    ) -> "Future[list[tuple[int, Durable]]]":
        """The first messages of a session after number `since`, at most `limit` of them.

        Returns:
            Done with all that was appended before, written or not, except what was lost. Never an
            exception.
        """
        answer: Future[list[tuple[int, Durable]]] = Future()
        answer.set_running_or_notify_cancel()
        with self._changed:
            self._promises[answer] = []
        if not self._order(partial(self._read, name, since, limit, answer)):
            self._resolve(answer, [])
        return answer

    def _order(self, order: Callable[[], None], n_bytes: int = 0) -> bool:
        """Queue an order, unless the store is closing."""
        with self._changed:
            if self._is_closing:
                return False
            self._orders.append((order, n_bytes))
            self._audio_bytes += n_bytes
            self._changed.notify()
        return True

    def _resolve(self, promise: "Future[ResultT] | None", result: ResultT) -> None:
        """Keep a promise, if nobody else did."""
        with self._changed:
            if promise is None or promise not in self._promises:
                return
            del self._promises[promise]
        promise.set_result(result)

    def _report(self, code: Trouble, sentence: str) -> None:
        now = time.monotonic()
        with self._changed:
            if now < self._reported.get(code, -math.inf) + self._limits.report_s:
                return
            self._reported[code] = now
        self._on_trouble(code, sentence)

    # What follows runs in the store's thread. First the orders.

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._orders or self._is_closing, self._pause())
                if not self._orders and self._is_closing:
                    break
                order, n_bytes = self._orders.popleft() if self._orders else (None, 0)
                self._audio_bytes -= n_bytes
            try:
                if order:
                    order()
                if self._waiting and time.monotonic() >= self._retry_at:
                    self._flush(busy_timeout_s=0.0)  # audio comes in meanwhile
            except Exception:
                logger.exception("the store failed to carry out an order")
        self._finish()

    def _pause(self) -> float | None:
        """Seconds until there is something to do without an order."""
        return max(0.0, self._retry_at - time.monotonic()) if self._waiting else None

    def _finish(self) -> None:
        if self._waiting:
            self._flush(self._limits.busy_timeout_s)
        if self._waiting:
            logger.warning("%d changes of the journal are lost", len(self._waiting))
        for audio in self._audio.values():
            if audio.spool:
                audio.spool.close()
        self._close_journal()
        self._is_complete = not self._waiting

    def _begin(self, record: SessionRecord) -> None:
        if record.name in self._audio:
            self._release(record.name, must=True)  # of a session that had this name before
        self._live[record.name] = record
        self._change(_Change(record.name, lambda to: to.begin(record), "begin"))

    def _configure(self, name: str, wishes: SessionOptions) -> None:
        if name in self._live:
            self._live[name] = replace(self._live[name], wishes=wishes)
        self._change(_Change(name, lambda to: to.configure(name, wishes)))

    def _keep_promise(self, name: str, promise: StableText, done: "Future[None]") -> None:
        try:
            if not self._waiting:  # else the journal does not know what came before it, either
                self._renewed(self._limits.busy_timeout_s).keep_promise(name, promise)
        except StorageError as error:
            logger.info("%s", error)  # the next message tries again, and says so
        finally:
            self._resolve(done, None)

    def _take_message(self, change: _Change) -> None:
        with self._changed:
            self._n_messages -= 1
        self._change(change)

    def _end(self, name: str, at: float) -> None:
        self._live.pop(name, None)
        if self.history_days:
            self._change(_Change(name, lambda to: to.end(name, at), "end"))
        else:
            self._forget_messages(name)
        self._forget_audio(name)

    def _forget(self, name: str) -> None:
        self._live.pop(name, None)
        self._forget_messages(name)
        self._forget_audio(name)

    def _prune(self, days: int) -> None:
        try:
            journal = self._opened(self._limits.busy_timeout_s)
            journal.prune(time.time() - days * _DAY_S, ended_only=days == 0)
        except StorageError as error:
            self._report("journal", str(error))

    def _read(
        self, name: str, since: int, limit: int, answer: "Future[list[tuple[int, Durable]]]"
    ) -> None:
        changes = [change for change in self._waiting if change.name == name]
        messages: list[tuple[int, Durable]] = []
        try:
            if self._is_readable(name, changes):
                messages = self._opened().messages(name, since, limit)
        except StorageError as error:
            self._report("journal", str(error))
        last_seq = messages[-1][0] if messages else since
        later = (change.message for change in _of_last_session(changes))
        messages += [message for message in later if message and message[0] > last_seq]
        self._resolve(answer, messages[:limit])

    def _is_readable(self, name: str, waiting: list[_Change]) -> bool:
        """Whether what the journal holds under this name belongs to the present session."""
        if self._journal is None and time.monotonic() < self._retry_at:
            return False
        earlier = waiting[: len(waiting) - len(_of_last_session(waiting))]
        if any(change.role == "end" for change in earlier):
            return False
        begins = any(change.role == "begin" for change in waiting)
        return not begins or self._opened().is_unfinished(name)

    # The journal.

    def _change(self, change: _Change) -> None:
        """Make a change, after those that wait."""
        self._waiting.append(change)
        if len(self._waiting) == 1:
            self._flush(self._limits.busy_timeout_s)
            return
        self._resolve(change.done, None)
        if len(self._waiting) > self._limits.changes:
            self._lose_oldest()

    def _flush(self, busy_timeout_s: float) -> None:
        """Make the changes that wait, the oldest first, as far as possible."""
        while self._waiting:
            change = self._waiting.popleft()
            try:
                change.make(self._renewed(busy_timeout_s))
            except JournalOrderError as error:
                self._report("history_lost", str(error))
            except StorageError as error:
                self._waiting.appendleft(change)
                self._put_off(error)
                return
            finally:
                self._resolve(change.done, None)
            self._tidy()
        deferred, self._deferred = self._deferred, set()
        for name in deferred:
            self._release(name)

    def _tidy(self) -> None:
        try:
            if self._journal:
                self._journal.tidy()
        except StorageError as error:
            logger.info("%s", error)  # nothing is lost, and the next write says it again

    def _opened(self, busy_timeout_s: float = 0.0) -> Journal:
        """The journal as it is, good at least for reading."""
        if self._journal is None:
            self._journal = Journal(self._path, busy_timeout_s)
            try:
                for record in self._live.values():  # a new one knows none of them
                    self._journal.begin(record)
            except StorageError:
                self._close_journal()
                raise
        self._journal.set_patience(busy_timeout_s)
        return self._journal

    def _renewed(self, busy_timeout_s: float) -> Journal:
        """The journal, good for writing as far as we know."""
        if self._journal and not self._journal.is_in_place:
            logger.warning("%s was deleted; a new one is begun", self._path)
            self._close_journal()
        elif self._journal and self._is_failing:
            fresh = Journal(self._path, busy_timeout_s)  # if this fails, the old one can be read
            self._close_journal()
            self._journal = fresh
            fresh.checkpoint()  # on a full disk, this is what makes room
        journal = self._opened(busy_timeout_s)
        self._is_failing = False
        return journal

    def _put_off(self, error: StorageError) -> None:
        """Try again later."""
        pause = self._limits.retry_locked_s
        if not isinstance(error, JournalLockedError):
            pause = self._limits.retry_s
            self._is_failing = True
        self._retry_at = time.monotonic() + pause
        self._report("journal", f"{error} What is said stays in memory until it can be written.")

    def _close_journal(self) -> None:
        journal, self._journal = self._journal, None
        if journal:
            try:
                journal.close()
            except StorageError as error:
                logger.warning("%s", error)

    def _lose_oldest(self) -> None:
        """Give the oldest message up, or if none waits the oldest change."""
        roles = [change.role for change in self._waiting]
        del self._waiting[roles.index("message") if "message" in roles else 0]
        self._report(
            "history_lost",
            f"More than {self._limits.changes} messages wait for the"
            f" journal {self._path}; the oldest are lost.",
        )

    def _forget_messages(self, name: str) -> None:
        kept = [change for change in self._waiting if change.name != name]
        self._waiting = collections.deque(kept)
        self._change(_Change(name, lambda to: to.forget(name), "end"))

    # The spool.

    def _spool_audio(self, name: str, position: Samples, samples: Float32Array) -> None:
        audio = self._audio.setdefault(name, _Audio())
        if audio.is_broken and time.monotonic() < audio.retry_at:
            return
        try:
            spool = self._opened_spool(name, audio, position)
            spool.skip(position - spool.position)
            spool.append(samples)
        except SpoolFullError as error:
            self._report("spool_full", str(error))
            self._release(name)
        except StorageError as error:
            audio.is_broken = True
            audio.retry_at = time.monotonic() + self._limits.retry_s
            self._report("spool", str(error))
            self._release(name)

    def _skip_audio(self, name: str, position: Samples) -> None:
        audio = self._audio.get(name)
        if audio and audio.spool:
            audio.spool.skip(position - audio.spool.position)

    def _settle(self, name: str, position: Samples) -> None:
        audio = self._audio.setdefault(name, _Audio())
        audio.settled = max(audio.settled, position)
        self._release(name)

    def _opened_spool(self, name: str, audio: _Audio, position: Samples) -> Spool:
        if audio.spool is None or audio.is_broken:
            assert self._spool_root is not None
            if audio.spool:
                audio.spool.close()
                audio.spool = None
            audio.spool = Spool(self._spool_root / name, position, self._limits.spool_bytes)
            audio.is_broken = False
        return audio.spool

    def _forget_audio(self, name: str) -> None:
        if self._spool_root is not None:
            self._audio.setdefault(name, _Audio()).is_over = True
            self._release(name)

    def _release(self, name: str, *, must: bool = False) -> None:
        """Delete the audio that is not needed, unless its text is only in memory."""
        audio = self._audio.get(name)
        if audio is None:
            return
        if not must and self._must_keep(name, audio):
            self._deferred.add(name)
            return
        try:
            if audio.is_over:
                self._delete_spool(name, audio)
            elif audio.spool:
                audio.spool.forget_before(audio.settled)
        except StorageError as error:
            self._report("spool", str(error))

    def _must_keep(self, name: str, audio: _Audio) -> bool:
        if self._journal is None or audio.is_broken or (audio.spool and audio.spool.is_full):
            return False
        return any(change.name == name and change.message for change in self._waiting)

    def _delete_spool(self, name: str, audio: _Audio) -> None:
        assert self._spool_root is not None
        del self._audio[name]
        if audio.spool:
            audio.spool.close()
        delete_spool(self._spool_root / name)


def _of_last_session(changes: list[_Change]) -> list[_Change]:
    """The changes from the last beginning of a session on, or all if none begins."""
    begins = [index for index, change in enumerate(changes) if change.role == "begin"]
    return changes[begins[-1] :] if begins else changes
