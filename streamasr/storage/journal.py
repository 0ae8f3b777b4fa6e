"""The journal: what was said, in SQLite, kept beyond its session and the process.

One `Journal` writes; any number of `JournalReader` read meanwhile, from other processes too. What
was appended survives the death of the process at any moment. It may not survive a power cut of
the same second: that would cost a disk flush for each final.

A session is identified by its name until it ends. A later session may have the same name (that of
the microphone always does); the name then means the later one.

Search goes through an index of words. Scripts without spaces between words have every character
indexed as a word of its own, so that any part of a text is found, be it one character long.
"""

import contextlib
import os
import sqlite3
import time
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import msgspec

from streamasr.core.errors import StorageError
from streamasr.core.hypothesis import StableText
from streamasr.core.messages import Durable, End, Final, Gap, Words
from streamasr.core.options import SessionOptions
from streamasr.core.units import Samples
from streamasr.storage import check_name
from streamasr.storage.search import match_query, spaced

SCHEMA_VERSION: typing.Final = 1

_APPLICATION_ID: typing.Final = 0x53415352  # "SASR", as `file` shows it

_LONG_LOG: typing.Final = 100
"""Transactions; about 4 MB, as a message touches ten pages."""

_SCHEMA: typing.Final = f"""
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    created REAL NOT NULL,
    ended REAL,
    model TEXT NOT NULL,
    wishes TEXT NOT NULL,
    last_seq INTEGER NOT NULL DEFAULT 0,
    n_finals INTEGER NOT NULL DEFAULT 0,
    n_words INTEGER NOT NULL DEFAULT 0,
    settled INTEGER NOT NULL DEFAULT 0,
    promise TEXT
);
CREATE INDEX sessions_by_name ON sessions (name);
CREATE UNIQUE INDEX unfinished_sessions ON sessions (name) WHERE ended IS NULL;
CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES sessions (id),
    seq INTEGER NOT NULL,
    created REAL NOT NULL,
    kind TEXT NOT NULL,
    segment INTEGER,
    start INTEGER,
    "end" INTEGER,
    language TEXT,
    text TEXT,
    body TEXT NOT NULL,
    UNIQUE (session, seq)
);
CREATE INDEX messages_by_segment ON messages (session, segment);
CREATE INDEX messages_by_time ON messages (created);
CREATE VIRTUAL TABLE texts USING fts5 (spaced, tokenize = 'unicode61 remove_diacritics 2');
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
"""Sessions carry their totals, so that these survive the removal of old messages. The times
`created` and `ended` are seconds since 1970, positions are samples."""

_KINDS: typing.Final[dict[str, type[Durable]]] = {
    "final": Final,
    "words": Words,
    "gap": Gap,
    "end": End,
}


SessionSource: TypeAlias = Literal["microphone", "client"]


class NoJournalError(StorageError):
    """Nothing has been written yet."""


class JournalLockedError(StorageError):
    """Another program is writing to the journal; later it works again."""


class JournalOrderError(StorageError):
    """This message does not belong here; trying again is of no use."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """What must be known to resume a session."""

    name: str
    source: SessionSource
    created: float
    """Seconds since 1970."""
    model: str
    wishes: SessionOptions


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a session has come, by its durable messages."""

    last_seq: int
    n_finals: int
    n_words: int
    settled: Samples
    """Where the last final or gap ends; 0 before there is one."""
    last_segment: int
    """Number of the newest segment of which a final or words were kept; 0 before there is one."""
    wordless: tuple[Final, ...]
    """Finals with text whose words are not there."""


@dataclass(frozen=True, slots=True)
class Found:
    """A final, as history shows it."""

    session: SessionRecord
    seq: int
    created: float
    """When it was published, in seconds since 1970."""
    final: Final
    words: Words | None
    """None where they never came, or were not asked for."""


class Journal:
    """The one writer. To be used in the thread that made it.

    Every method has written what it was asked for when it returns, or raises a `StorageError`:
    `JournalLockedError` and `JournalOrderError` say more about whether to try again.
    """

    def __init__(self, path: Path, busy_timeout_s: float = 1.0) -> None:
        """Open the journal, or begin one.

        Args:
            path: of the database; its directory is made where it is missing.
            busy_timeout_s: how long to wait for another program that is writing.

        Raises:
            StorageError: it cannot be opened, or is none of ours.
        """
        self._path = path
        self._n_logged = 0  # transactions since the log of writes was emptied
        with _explained(path):
            self._inode = _create_private(path)
            self._db = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None)
        try:
            with _explained(path):
                self._prepare()
        except StorageError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        version = _check_origin(self._db, self._path)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA wal_autocheckpoint = 0")  # see `tidy`
        self._db.execute("PRAGMA secure_delete = ON")  # what is forgotten must not stay in the file
        if version == 0:
            with self._transaction() as db:
                # Another process may have been quicker.
                if _check_origin(db, self._path) == 0:
                    for statement in _SCHEMA.split(";"):
                        db.execute(statement)

    def set_patience(self, busy_timeout_s: float) -> None:
        """How long to wait from now on for another program that is writing."""
        self._db.execute(f"PRAGMA busy_timeout = {round(busy_timeout_s * 1000)}")

    def begin(self, record: SessionRecord) -> None:
        """Note a new session. One of that name which has not ended is resumed with these wishes."""
        check_name(record.name)
        with self._transaction() as db:
            db.execute(
                "INSERT INTO sessions (name, source, created, model, wishes)"
                " VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (name) WHERE ended IS NULL"
                " DO UPDATE SET model = excluded.model, wishes = excluded.wishes",
                (
                    record.name,
                    record.source,
                    record.created,
                    record.model,
                    _encode(record.wishes),
                ),
            )

    def configure(self, name: str, wishes: SessionOptions) -> None:
        """Note the new wishes of a session's listeners."""
        with self._transaction() as db:
            session, _ = _find_unfinished(db, name)
            db.execute("UPDATE sessions SET wishes = ? WHERE id = ?", (_encode(wishes), session))

    def keep_promise(self, name: str, promise: StableText) -> None:
        """Note what listeners of the open segment rely on, in place of what was noted before."""
        with self._transaction() as db:
            session, _ = _find_unfinished(db, name)
            db.execute("UPDATE sessions SET promise = ? WHERE id = ?", (_encode(promise), session))

    def append(self, name: str, seq: int, message: Durable, at: float | None = None) -> None:
        """Write one message.

        Numbers rise. The same message under the same number a second time changes nothing, so a
        write whose outcome is unknown can be repeated.

        Args:
            name: of a session that has begun and not ended.
            seq: of the message.
            message: what was published.
            at: when, in seconds since 1970; None for now.

        Raises:
            JournalOrderError: no such session, or its number `seq` was another message.
        """
        body = _encode(message)
        with self._transaction() as db:
            session, last_seq = _find_unfinished(db, name)
            if seq <= last_seq:
                _check_same(db, session, seq, body)
                return
            created = time.time() if at is None else at
            _insert(db, session, seq, message, body=body, created=created)
            _add_to_totals(db, session, seq, message)

    def end(self, name: str, at: float) -> None:
        """Note that nothing more comes. Without effect on a session that has ended."""
        with self._transaction() as db:
            db.execute(
                "UPDATE sessions SET ended = ?, promise = NULL WHERE name = ? AND ended IS NULL",
                (at, name),
            )

    def forget(self, name: str) -> None:
        """Remove a session and all it said, without a trace in the files."""
        with self._transaction() as db:
            newest = "(SELECT max(id) FROM sessions WHERE name = ?)"
            _delete_messages(db, f"session = {newest}", (name,))
            db.execute(f"DELETE FROM sessions WHERE id = {newest}", (name,))  # noqa: S608 - ours
        self._sweep()

    def prune(self, before: float, *, ended_only: bool = True) -> int:
        """Remove old messages, and ended sessions of which nothing is left.

        Args:
            before: messages published earlier go; in seconds since 1970.
            ended_only: leave the sessions alone that have not ended.

        Returns:
            How many messages went.
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
        """Whether the file is still the one of this name; SQLite writes on to a deleted one."""
        try:
            return _inode(self._path.stat()) == self._inode
        except OSError:
            return False

    def checkpoint(self) -> None:
        """Empty the log of writes: it may be many times as long as what it leads to."""
        with _explained(self._path):
            self._db.execute("PRAGMA wal_checkpoint (TRUNCATE)")
            self._n_logged = 0

    def tidy(self) -> None:
        """Bring the database up to date with the log of writes, if that has become long.

        This flushes to the disk, which may take a while: it is for when nobody waits.
        """
        if self._n_logged >= _LONG_LOG:
            self._n_logged = 0
            with _explained(self._path):
                self._db.execute("PRAGMA wal_checkpoint (PASSIVE)")

    def messages(self, name: str, since: int, limit: int) -> list[tuple[int, Durable]]:
        """As `JournalReader.messages`."""
        with _explained(self._path):
            return _messages(self._db, name, since, limit)

    def is_unfinished(self, name: str) -> bool:
        """Whether there is a session of this name that has not ended."""
        with _explained(self._path):
            row = self._db.execute(
                "SELECT 1 FROM sessions WHERE name = ? AND ended IS NULL", (name,)
            ).fetchone()
        return row is not None

    def close(self) -> None:
        """Close the files."""
        with _explained(self._path):
            self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _explained(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
                self._n_logged += 1
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _sweep(self) -> None:
        """Remove what deleted messages leave behind: in the index, and in the log of writes."""
        with self._transaction() as db:
            db.execute("INSERT INTO texts (texts) VALUES ('optimize')")
        self.checkpoint()


class JournalReader:
    """Reads, also while a daemon writes. To be used in the thread that made it."""

    def __init__(self, path: Path) -> None:
        """Open the journal.

        Raises:
            NoJournalError: there is none yet.
            StorageError: it cannot be read, or is none of ours.
        """
        self._path = path
        with _explained(path):
            if not path.exists():
                raise NoJournalError(f"there is no journal in {path} yet.")
            uri = f"{path.absolute().as_uri()}?mode=ro"
            self._db = sqlite3.connect(uri, uri=True, timeout=1.0, isolation_level=None)
        try:
            with _explained(path):
                if _check_origin(self._db, path) == 0:
                    raise NoJournalError(f"the journal in {path} is empty.")
        except StorageError:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._db.close()

    def unfinished(self) -> list[SessionRecord]:
        """The sessions that have not ended, the oldest first."""
        with _explained(self._path):
            rows = self._db.execute(
                "SELECT name, source, created, model, wishes FROM sessions"
                " WHERE ended IS NULL ORDER BY id"
            )
            return [_session_record(*row) for row in rows]

    def promise(self, name: str) -> StableText | None:
        """What was noted last of the session of this name that has not ended."""
        with _explained(self._path):
            row = self._db.execute(
                "SELECT promise FROM sessions WHERE name = ? AND ended IS NULL", (name,)
            ).fetchone()
        if row is None or row[0] is None:
            return None
        try:
            fields = msgspec.json.decode(row[0], type=dict[str, Any])
            if "forced" in fields:  # as version 1 called them
                fields["tokens"] = fields.pop("forced")
            return msgspec.convert(fields, StableText)
        except msgspec.DecodeError as error:
            raise StorageError(f"the journal's record of session {name} is damaged.") from error

    def has_session(self, name: str) -> bool:
        """Whether there is a session of this name, over or not."""
        with _explained(self._path):
            row = self._db.execute("SELECT 1 FROM sessions WHERE name = ?", (name,)).fetchone()
        return row is not None

    def messages(self, name: str, since: int, limit: int) -> list[tuple[int, Durable]]:
        """The first messages of a session after number `since`, at most `limit` of them."""
        with _explained(self._path):
            return _messages(self._db, name, since, limit)

    def counts(self, name: str) -> Counts:
        """How far a session has come; all 0 for one that is not there."""
        with _explained(self._path):
            row = self._db.execute(
                "SELECT id, last_seq, n_finals, n_words, settled,"
                " (SELECT max(segment) FROM messages WHERE session = sessions.id)"
                " FROM sessions WHERE name = ? ORDER BY id DESC LIMIT 1",
                (name,),
            ).fetchone()
            if row is None:
                return Counts(0, 0, 0, Samples(0), 0, ())
            session, last_seq, n_finals, n_words, settled, last_segment = row
            wordless = self._db.execute(
                "SELECT kind, body FROM messages AS final"
                " WHERE session = ? AND kind = 'final' AND text <> '' AND NOT EXISTS ("
                "  SELECT 1 FROM messages WHERE session = final.session"
                "  AND segment = final.segment AND kind = 'words')"
                " ORDER BY seq",
                (session,),
            )
            finals = (_decode(*row) for row in wordless)
            return Counts(
                last_seq,
                n_finals,
                n_words,
                Samples(settled),
                max(last_segment or 0, n_finals),  # old messages may be gone
                tuple(final for final in finals if isinstance(final, Final)),
            )

    def search(
        self,
        text: str | None = None,
        since: float | None = None,
        limit: int | None = None,
        session: str | None = None,
        *,
        with_words: bool = True,
    ) -> list[Found]:
        """The finals that hold every one of some terms.

        Args:
            text: terms with white space between them, in any order; None for all finals.
            since: published then or later, in seconds since 1970.
            limit: only the newest so many.
            session: only those of sessions with this name.
            with_words: False leaves `Found.words` out, which is much quicker.

        Returns:
            Finals with text, in the order they were published.
        """
        wheres = ["final.kind = 'final'", "final.text <> ''"]
        values: list[str | float] = []
        if text is not None:
            query = match_query(text)
            if not query:
                return []
            wheres.append("final.id IN (SELECT rowid FROM texts WHERE texts MATCH ?)")
            values.append(query)
        if since is not None:
            wheres.append("final.created >= ?")
            values.append(since)
        if session is not None:
            wheres.append("sessions.name = ?")
            values.append(session)
        with _explained(self._path):
            rows = self._db.execute(
                "SELECT name, source, sessions.created, model, wishes,"  # noqa: S608 - ours
                " final.seq, final.created, final.body, words.body FROM messages AS final"
                " JOIN sessions ON sessions.id = final.session"
                " LEFT JOIN messages AS words ON words.session = final.session"
                " AND words.segment = final.segment AND words.kind = 'words' AND ?"
                f" WHERE {' AND '.join(wheres)}"
                " ORDER BY final.created DESC, final.id DESC LIMIT ?",
                (with_words, *values, -1 if limit is None else limit),
            )
            return [_found(row) for row in rows][::-1]


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the database into one sentence."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explain(path, error) from error
    except OSError as error:
        raise StorageError(f"the journal {path} cannot be opened: {error.strerror}.") from error
    except UnicodeEncodeError as error:
        raise JournalOrderError(f"the journal {path} takes no such text: {error}.") from error


def _explain(path: Path, error: sqlite3.Error) -> StorageError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return JournalLockedError(f"the journal {path} is locked by another program.")
    reasons = {
        "SQLITE_NOTADB": "is no database",
        "SQLITE_CORRUPT": "is damaged",
        "SQLITE_FULL": "cannot be written: the disk is full",
        "SQLITE_READONLY": "cannot be written: it is read-only",
    }
    for prefix, reason in reasons.items():
        if name.startswith(prefix):
            return StorageError(f"the journal {path} {reason}.")
    return StorageError(f"the journal {path} cannot be used: {error}.")


def _create_private(path: Path) -> tuple[int, int]:
    """Make the file that SQLite will use, readable by its owner alone; which file that is.

    SQLite gives the files it puts beside it the same mode.
    """
    if not path.parent.exists():
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(file, 0o600)
        return _inode(os.fstat(file))
    finally:
        os.close(file)


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _check_origin(db: sqlite3.Connection, path: Path) -> int:
    """The version of the schema; 0 for an empty database.

    Raises:
        StorageError: it was made by another program, or a newer version of ours.
    """
    [[origin]] = db.execute("PRAGMA application_id")
    [[version]] = db.execute("PRAGMA user_version")
    [[n_tables]] = db.execute("SELECT count(*) FROM sqlite_master")
    if n_tables == 0 and origin == 0:
        return 0
    if origin != _APPLICATION_ID:
        raise StorageError(f"{path} is a database of another program.")
    if version > SCHEMA_VERSION:
        raise StorageError(
            f"the journal {path} was written by a newer version of streamasr"
            f" (its format is {version}, this one knows {SCHEMA_VERSION})."
        )
    return int(version)


def _find_unfinished(db: sqlite3.Connection, name: str) -> tuple[int, int]:
    """A session's id, and the number of its last message."""
    row = db.execute(
        "SELECT id, last_seq FROM sessions WHERE name = ? AND ended IS NULL", (name,)
    ).fetchone()
    if row is None:
        raise JournalOrderError(f"the journal knows no session called {name} that goes on.")
    session, last_seq = row
    return session, last_seq


def _check_same(db: sqlite3.Connection, session: int, seq: int, body: str) -> None:
    row = db.execute(
        "SELECT body FROM messages WHERE session = ? AND seq = ?", (session, seq)
    ).fetchone()
    if row is None or row[0] != body:
        raise JournalOrderError(f"message {seq} of a session came a second time, and differs.")


def _insert(
    db: sqlite3.Connection, session: int, seq: int, message: Durable, *, body: str, created: float
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
    """Kind, segment, start, end, language and text of a message."""
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


def _add_to_totals(db: sqlite3.Connection, session: int, seq: int, message: Durable) -> None:
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


def _delete_messages(db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> int:
    texts = f"DELETE FROM texts WHERE rowid IN (SELECT id FROM messages WHERE {where})"  # noqa: S608
    db.execute(texts, values)
    return db.execute(f"DELETE FROM messages WHERE {where}", values).rowcount  # noqa: S608


def _messages(
    db: sqlite3.Connection, name: str, since: int, limit: int
) -> list[tuple[int, Durable]]:
    rows = db.execute(
        "SELECT seq, kind, body FROM messages"
        " WHERE session = (SELECT max(id) FROM sessions WHERE name = ?) AND seq > ?"
        " ORDER BY seq LIMIT ?",
        (name, since, limit),
    )
    return [(seq, _decode(kind, body)) for seq, kind, body in rows]


def _encode(value: Durable | SessionOptions | StableText) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError as error:
        raise JournalOrderError(f"the journal takes no such text: {error}.") from error


def _decode(kind: str, body: str) -> Durable:
    try:
        return msgspec.json.decode(body, type=_KINDS[kind])
    except (KeyError, msgspec.DecodeError) as error:
        raise StorageError(f"the journal holds a {kind} message that is damaged.") from error


def _session_record(
    name: str, source: SessionSource, created: float, model: str, wishes: str
) -> SessionRecord:
    try:
        decoded = msgspec.json.decode(wishes, type=SessionOptions)
    except msgspec.DecodeError as error:
        raise StorageError(f"the journal's record of session {name} is damaged.") from error
    return SessionRecord(name, source, created, model, decoded)


def _found(row: tuple[Any, ...]) -> Found:
    *session, seq, created, final, words = row
    decoded = _decode("final", final)
    assert isinstance(decoded, Final)
    timed = None if words is None else _decode("words", words)
    assert timed is None or isinstance(timed, Words)
    return Found(_session_record(*session), seq, created, decoded, timed)
