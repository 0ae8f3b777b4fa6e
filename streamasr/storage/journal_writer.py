"""Changes of the journal, kept in memory while the disk refuses them; for the store's thread.

Changes are made in order. The journal is tried again soon when another program has locked it,
every `Limits.retry_s` otherwise. Meanwhile the messages that wait can be read like those on the
disk. When too many wait, the oldest message is lost.
"""

import collections
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from streamasr.core.errors import StorageError
from streamasr.core.hypothesis import StableText
from streamasr.core.messages import Durable
from streamasr.core.notices import NoticeCode
from streamasr.core.options import SessionOptions
from streamasr.storage.database import JournalLockedError, JournalOrderError
from streamasr.storage.journal import Journal
from streamasr.storage.journal_access import JournalAccess
from streamasr.storage.limits import Limits
from streamasr.storage.records import SessionRecord
from streamasr.storage.trouble import TroubleReporter

logger = logging.getLogger(__name__)

_DAY_S: Final = 86_400.0


@dataclass(slots=True)
class _Change:
    """A change of the journal."""

    name: str
    make: Callable[[Journal], object]
    role: Literal["begin", "message", "end", "other"] = "other"
    message: tuple[int, Durable] | None = None
    settled: Callable[[], None] | None = None
    """Called once the change has been made, or has to wait."""


class JournalWriter:
    """Makes changes of the journal in order, at once or at a later attempt."""

    def __init__(
        self,
        path: Path,
        limits: Limits,
        troubles: TroubleReporter,
        on_all_written: Callable[[], None],
    ) -> None:
        """Prepare; the journal is opened by the first change.

        Args:
            path: of the database.
            limits: times and sizes.
            troubles: receives the failures.
            on_all_written: called when no change waits any more.
        """
        self._path = path
        self._limits = limits
        self._troubles = troubles
        self._on_all_written = on_all_written
        self._live: dict[str, SessionRecord] = {}
        self._journal = JournalAccess(path, self._live.values)
        self._waiting: collections.deque[_Change] = collections.deque()
        self._retry_at = 0.0  # monotonic seconds, if changes wait

    @property
    def is_open(self) -> bool:
        """True while the journal can be read."""
        return self._journal.is_open

    def has_waiting_message(self, name: str) -> bool:
        """Return True if a message of this session is not in the journal yet."""
        return any(change.name == name and change.message for change in self._waiting)

    def pause_s(self) -> float | None:
        """Return the seconds until the next attempt; None if no change waits."""
        return max(0.0, self._retry_at - time.monotonic()) if self._waiting else None

    def retry_if_due(self) -> None:
        """Make another attempt, if it is time for one."""
        if self._waiting and time.monotonic() >= self._retry_at:
            self._flush(busy_timeout_s=0.0)  # audio comes in meanwhile

    def finish(self) -> bool:
        """Make the last attempt, and close. Return True if every change was made."""
        if self._waiting:
            self._flush(self._limits.busy_timeout_s)
        if self._waiting:
            logger.warning("%d changes of the journal are lost", len(self._waiting))
        self._journal.close()
        return not self._waiting

    # Changes.

    def begin(self, record: SessionRecord) -> None:
        """Record a session that begins or is resumed."""
        self._live[record.name] = record
        self._change(_Change(record.name, lambda to: to.begin(record), "begin"))

    def configure(self, name: str, options: SessionOptions) -> None:
        """Record the new options of a session."""
        if name in self._live:
            self._live[name] = replace(self._live[name], options=options)
        self._change(_Change(name, lambda to: to.configure(name, options)))

    def append(
        self, name: str, seq: int, message: Durable, at: float, settled: Callable[[], None]
    ) -> None:
        """Record a message.

        Args:
            name: of the session.
            seq: of the message.
            message: that was published.
            at: time of publication, in seconds since 1970.
            settled: called once the message is in the journal, or waits in memory.
        """
        self._change(
            _Change(
                name,
                lambda to: to.append(name, seq, message, at),
                "message",
                (seq, message),
                settled,
            )
        )

    def keep_stable_text(self, name: str, stable: StableText) -> None:
        """Record the stable text of the open segment, unless the journal cannot be written."""
        if self._waiting:
            return  # the journal lacks the messages before it, too
        try:
            self._journal.for_writing(self._limits.busy_timeout_s).keep_stable_text(name, stable)
        except StorageError as error:
            logger.info("%s", error)  # the next message tries again, and reports it

    def end(self, name: str, at: float) -> None:
        """Record the end of a session, in seconds since 1970."""
        self._live.pop(name, None)
        self._change(_Change(name, lambda to: to.end(name, at), "end"))

    def forget(self, name: str) -> None:
        """Remove a session and its messages, those that wait included."""
        self._live.pop(name, None)
        kept = [change for change in self._waiting if change.name != name]
        self._waiting = collections.deque(kept)
        self._change(_Change(name, lambda to: to.forget(name), "end"))

    def prune(self, days: int) -> None:
        """Remove messages older than `days`; with 0 all of the sessions that have ended."""
        try:
            journal = self._journal.for_reading(self._limits.busy_timeout_s)
            journal.prune(time.time() - days * _DAY_S, ended_only=days == 0)
        except StorageError as error:
            self._troubles.report(NoticeCode.JOURNAL, str(error))

    # Reading.

    def read(self, name: str, since: int, limit: int) -> list[tuple[int, Durable]]:
        """Return the first `limit` messages of a session after number `since`, waiting or not."""
        changes = [change for change in self._waiting if change.name == name]
        messages: list[tuple[int, Durable]] = []
        try:
            if self._is_readable(name, changes):
                messages = self._journal.for_reading().messages(name, since, limit)
        except StorageError as error:
            self._troubles.report(NoticeCode.JOURNAL, str(error))
        last_seq = messages[-1][0] if messages else since
        later = (change.message for change in _of_last_session(changes))
        messages += [message for message in later if message and message[0] > last_seq]
        return messages[:limit]

    def _is_readable(self, name: str, waiting: list[_Change]) -> bool:
        """Return True if the session under this name in the journal is the present one."""
        if not self._journal.is_open and time.monotonic() < self._retry_at:
            return False
        earlier = waiting[: len(waiting) - len(_of_last_session(waiting))]
        if any(change.role == "end" for change in earlier):
            return False
        begins = any(change.role == "begin" for change in waiting)
        return not begins or self._journal.for_reading().is_unfinished(name)

    # Attempts.

    def _change(self, change: _Change) -> None:
        """Make a change, after those that wait."""
        self._waiting.append(change)
        if len(self._waiting) == 1:
            self._flush(self._limits.busy_timeout_s)
            return
        _settle(change)
        if len(self._waiting) > self._limits.changes:
            self._lose_oldest()

    def _flush(self, busy_timeout_s: float) -> None:
        """Make the changes that wait, the oldest first, as far as possible."""
        while self._waiting:
            change = self._waiting.popleft()
            try:
                change.make(self._journal.for_writing(busy_timeout_s))
            except JournalOrderError as error:
                self._troubles.report(NoticeCode.HISTORY_LOST, str(error))
            except StorageError as error:
                self._waiting.appendleft(change)
                self._put_off(error)
                return
            finally:
                _settle(change)
            self._journal.shorten_log()
        self._on_all_written()

    def _put_off(self, error: StorageError) -> None:
        """Plan the next attempt."""
        pause = self._limits.retry_locked_s
        if not isinstance(error, JournalLockedError):
            pause = self._limits.retry_s
            self._journal.mark_failing()
        self._retry_at = time.monotonic() + pause
        self._troubles.report(
            NoticeCode.JOURNAL, f"{error} New messages stay in memory until it can be written."
        )

    def _lose_oldest(self) -> None:
        """Drop the oldest message, or if none waits the oldest change."""
        roles = [change.role for change in self._waiting]
        del self._waiting[roles.index("message") if "message" in roles else 0]
        self._troubles.report(
            NoticeCode.HISTORY_LOST,
            f"More than {self._limits.changes} messages wait for the"
            f" journal {self._path}; the oldest are lost.",
        )


def _settle(change: _Change) -> None:
    if change.settled:
        change.settled()


def _of_last_session(changes: list[_Change]) -> list[_Change]:
    """Return the changes from the last beginning of a session on, or all if none begins."""
    begins = [index for index, change in enumerate(changes) if change.role == "begin"]
    return changes[begins[-1] :] if begins else changes
