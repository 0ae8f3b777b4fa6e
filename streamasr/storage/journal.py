"""The journal: published messages in SQLite, kept beyond their session and the process.

One `Journal` writes; any number of `JournalReader` read meanwhile, from other processes too. A
message that was appended survives the death of the process at any moment. It may not survive a
power cut in the same second: that would cost a disk flush for each final.

A session is identified by its name until it ends. A later session may have the same name (that of
the microphone always does); the name then means the later one.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final as Constant

from streamasr.core.errors import StorageError
from streamasr.core.hypothesis import StableText
from streamasr.core.messages import Durable, End, Final, Gap, Words
from streamasr.core.options import SessionOptions
from streamasr.storage import check_name
from streamasr.storage.database import (
    Connection,
    Database,
    JournalOrderError,
    create_private,
    file_identity,
)
from streamasr.storage.documents import encode_message, encode_options, encode_stable_text
from streamasr.storage.reader import select_messages
from streamasr.storage.records import SessionRecord
from streamasr.storage.schema import VERSION, bring_up_to_date, read_version
from streamasr.storage.search import spaced

_LONG_LOG: Constant = 100
"""Transactions; about 4 MB, as a message touches ten pages."""


class Journal:
    """The one writer, for the thread that made it.

    Every method has written its change when it returns, or raises a `StorageError`:
    `JournalLockedError` and `JournalOrderError` tell whether another attempt can succeed.
    """

    def __init__(self, path: Path, busy_timeout_s: float = 1.0) -> None:
        """Open the journal; create it where it is missing, migrate it where it is old.

        Args:
            path: of the database; its directory is created where it is missing.
            busy_timeout_s: time to wait for another program that is writing.

        Raises:
            StorageError: the database cannot be opened, or another program made it.
        """
        self._path = path
        self._n_logged = 0  # transactions since the log of writes was emptied
        self._identity = create_private(path)
        self._database = Database.open_for_writing(path, busy_timeout_s)
        try:
            self._prepare()
        except StorageError:
            self._database.close()
            raise

    def _prepare(self) -> None:
        with self._database.reading() as db:
            version = read_version(db, self._path)
        self._database.pragma("journal_mode = WAL")
        self._database.pragma("synchronous = NORMAL")
        self._database.pragma("wal_autocheckpoint = 0")  # see `shorten_log`
        self._database.pragma("secure_delete = ON")  # deleted text must not stay in the file
        if version != VERSION:
            with self._transaction() as db:
                bring_up_to_date(db, self._path)  # unless another process was quicker

    def set_busy_timeout(self, seconds: float) -> None:
        """Set the time to wait for another program that is writing."""
        self._database.pragma(f"busy_timeout = {round(seconds * 1000)}")

    def begin(self, record: SessionRecord) -> None:
        """Record a new session, or new options of the unfinished session of that name."""
        check_name(record.name)
        values = (
            record.name,
            record.source,
            record.created,
            record.model,
            encode_options(record.options),
        )
        with self._transaction() as db:
            db.execute(
                "INSERT INTO sessions (name, source, created, model, options)"
                " VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (name) WHERE ended IS NULL"
                " DO UPDATE SET model = excluded.model, options = excluded.options",
                values,
            )

    def configure(self, name: str, options: SessionOptions) -> None:
        """Record the new options of a session.

        Raises:
            JournalOrderError: there is not an unfinished session of this name.
        """
        document = encode_options(options)
        with self._transaction() as db:
            session, _ = _find_unfinished(db, name)
            db.execute("UPDATE sessions SET options = ? WHERE id = ?", (document, session))

    def keep_stable_text(self, name: str, stable: StableText) -> None:
        """Record the stable text of the open segment, in place of an earlier one.

        Raises:
            JournalOrderError: there is not an unfinished session of this name.
        """
        document = encode_stable_text(stable)
        with self._transaction() as db:
            session, _ = _find_unfinished(db, name)
            db.execute("UPDATE sessions SET stable_text = ? WHERE id = ?", (document, session))

    def append(self, name: str, seq: int, message: Durable, at: float | None = None) -> None:
        """Write one message.

        Numbers rise. The same message under the same number a second time changes nothing, so a
        write whose outcome is unknown can be repeated.

        Args:
            name: of an unfinished session.
            seq: of the message.
            message: that was published.
            at: time of publication, in seconds since 1970; None for now.

        Raises:
            JournalOrderError: there is not an unfinished session of this name, or another message
                has the number `seq`.
        """
        body = encode_message(message)
        with self._transaction() as db:
            session, last_seq = _find_unfinished(db, name)
            if seq <= last_seq:
                _check_same(db, session, seq, body)
                return
            created = time.time() if at is None else at
            _insert(db, session, seq, message, body=body, created=created)
            _add_to_totals(db, session, seq, message)

    def end(self, name: str, at: float) -> None:
        """Record the end of a session. Without effect on a session that has ended."""
        with self._transaction() as db:
            db.execute(
                "UPDATE sessions SET ended = ?, stable_text = NULL"
                " WHERE name = ? AND ended IS NULL",
                (at, name),
            )

    def forget(self, name: str) -> None:
        """Remove a session and its messages, without a trace in the files."""
        with self._transaction() as db:
            newest = "(SELECT max(id) FROM sessions WHERE name = ?)"
            _delete_messages(db, f"session = {newest}", (name,))
            db.execute(f"DELETE FROM sessions WHERE id = {newest}", (name,))  # noqa: S608 - ours
        self._sweep()

    def prune(self, before: float, *, ended_only: bool = True) -> int:
        """Remove old messages, and ended sessions without any message left.

        Args:
            before: earlier messages are removed; in seconds since 1970.
            ended_only: keep the messages of unfinished sessions.

        Returns:
            The number of removed messages.
        """
        where = "created < ?"
        if ended_only:
            where += " AND session IN (SELECT id FROM sessions WHERE ended IS NOT NULL)"
        with self._transaction() as db:
            n_deleted = _delete_messages(db, where, (before,))
            db.execute(
                "DELETE FROM sessions WHERE ended < ?"
                " AND NOT EXISTS (SELECT 1 FROM messages WHERE session = sessions.id)",
                (before,),
            )
        if n_deleted:
            self._sweep()
        return n_deleted

    @property
    def is_in_place(self) -> bool:
        """True while the open file is the one of this name; SQLite writes to a deleted file."""
        try:
            return file_identity(self._path.stat()) == self._identity
        except OSError:
            return False

    def checkpoint(self) -> None:
        """Empty the log of writes: it may be many times as long as its result."""
        self._database.pragma("wal_checkpoint (TRUNCATE)")
        self._n_logged = 0

    def shorten_log(self) -> None:
        """Write a long log into the database.

        This flushes to the disk, which may take a while: call it when nothing waits.
        """
        if self._n_logged >= _LONG_LOG:
            self._n_logged = 0
            self._database.pragma("wal_checkpoint (PASSIVE)")

    def messages(self, name: str, since: int, limit: int) -> list[tuple[int, Durable]]:
        """Return messages as `JournalReader.messages` does."""
        with self._database.reading() as db:
            return select_messages(db, name, since, limit)

    def is_unfinished(self, name: str) -> bool:
        """Return True if there is a session of this name that has not ended."""
        with self._database.reading() as db:
            row = db.execute(
                "SELECT 1 FROM sessions WHERE name = ? AND ended IS NULL", (name,)
            ).fetchone()
        return row is not None

    def close(self) -> None:
        """Close the files."""
        self._database.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._database.writing() as db:
            yield db
        self._n_logged += 1

    def _sweep(self) -> None:
        """Remove the traces of deleted messages, in the index and in the log of writes."""
        with self._transaction() as db:
            db.execute("INSERT INTO texts (texts) VALUES ('optimize')")
        self.checkpoint()


def _find_unfinished(db: Connection, name: str) -> tuple[int, int]:
    """Return a session's id, and the number of its last message."""
    row = db.execute(
        "SELECT id, last_seq FROM sessions WHERE name = ? AND ended IS NULL", (name,)
    ).fetchone()
    if row is None:
        raise JournalOrderError(
            f"the journal has no unfinished session called {name}.", code="journal_unknown_session"
        )
    session, last_seq = row
    return session, last_seq


def _check_same(db: Connection, session: int, seq: int, body: str) -> None:
    row = db.execute(
        "SELECT body FROM messages WHERE session = ? AND seq = ?", (session, seq)
    ).fetchone()
    if row is None or row[0] != body:
        raise JournalOrderError(
            f"message {seq} of a session came a second time, and differs.",
            code="journal_message_differs",
        )


def _insert(
    db: Connection, session: int, seq: int, message: Durable, *, body: str, created: float
) -> None:
    row = db.execute(
        "INSERT INTO messages"
        ' (session, seq, created, body, kind, segment, start, "end", language, text)'
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (session, seq, created, body, *_columns(message)),
    ).lastrowid
    if isinstance(message, Final) and message.text:
        spaced_text = spaced(message.text)
        db.execute("INSERT INTO texts (rowid, spaced) VALUES (?, ?)", (row, spaced_text))


def _columns(message: Durable) -> tuple[str | int | None, ...]:
    """Return kind, segment, start, end, language and text of a message."""
    match message:
        case Final():
            span = message.start, message.end
            return "final", message.segment, *span, message.language, message.text
        case Words():
            return "words", message.segment, None, None, None, None
        case Gap():
            return "gap", None, message.start, message.end, None, None
        case End():
            return "end", None, None, message.duration, None, None


def _add_to_totals(db: Connection, session: int, seq: int, message: Durable) -> None:
    db.execute(
        "UPDATE sessions SET last_seq = ?, n_finals = n_finals + ?, n_words = n_words + ?,"
        " settled = max(settled, ?) WHERE id = ?",
        (
            seq,
            isinstance(message, Final),
            len(message.words) if isinstance(message, Words) else 0,
            message.end if isinstance(message, Final | Gap) else 0,
            session,
        ),
    )


def _delete_messages(db: Connection, where: str, values: tuple[object, ...]) -> int:
    texts = f"DELETE FROM texts WHERE rowid IN (SELECT id FROM messages WHERE {where})"  # noqa: S608
    db.execute(texts, values)
    return db.execute(f"DELETE FROM messages WHERE {where}", values).rowcount  # noqa: S608
