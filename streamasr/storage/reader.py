"""Readers of the journal, also while a daemon writes to it.

Search uses an index of words. Scripts without spaces between words have every character indexed as
a word of its own, so that any part of a text is found, be it one character long.
"""

from pathlib import Path
from typing import Any, Self

from streamasr.core.errors import StorageError
from streamasr.core.hypothesis import StableText
from streamasr.core.messages import Durable, Final, Words
from streamasr.core.units import Samples
from streamasr.storage.database import Connection, Database, NoJournalError
from streamasr.storage.documents import decode_message, decode_options, decode_stable_text
from streamasr.storage.records import Counts, SearchResult, SessionRecord, SessionSource
from streamasr.storage.schema import read_columns, read_version
from streamasr.storage.search import match_query


class JournalReader:
    """Read-only access to a journal of any version, for the thread that made it."""

    def __init__(self, path: Path) -> None:
        """Open the journal.

        Raises:
            NoJournalError: the journal does not exist, or is empty.
            StorageError: the journal cannot be read, or another program made it.
        """
        self._database = Database.open_for_reading(path)
        try:
            with self._database.reading() as db:
                version = read_version(db, path)
            if version == 0:
                raise NoJournalError(f"the journal in {path} is empty.")
        except StorageError:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._database.close()

    def unfinished(self) -> list[SessionRecord]:
        """Return the sessions that have not ended, the oldest first."""
        with self._database.reading() as db:
            options = read_columns(db, self._database.path).options
            rows = db.execute(
                f"SELECT name, source, created, model, {options} FROM sessions"  # noqa: S608 - ours
                " WHERE ended IS NULL ORDER BY id"
            )
            return [_session_record(*row) for row in rows]

    def stable_text(self, name: str) -> StableText | None:
        """Return the last recorded stable text of the unfinished session of this name."""
        with self._database.reading() as db:
            column = read_columns(db, self._database.path).stable_text
            row = db.execute(
                f"SELECT {column} FROM sessions WHERE name = ? AND ended IS NULL",  # noqa: S608
                (name,),
            ).fetchone()
        if row is None or row[0] is None:
            return None
        return decode_stable_text(name, row[0])

    def has_session(self, name: str) -> bool:
        """Return True if there is a session of this name, ended or not."""
        with self._database.reading() as db:
            row = db.execute("SELECT 1 FROM sessions WHERE name = ?", (name,)).fetchone()
        return row is not None

    def messages(self, name: str, since: int, limit: int) -> list[tuple[int, Durable]]:
        """Return the first `limit` messages of a session after number `since`."""
        with self._database.reading() as db:
            return select_messages(db, name, since, limit)

    def counts(self, name: str) -> Counts:
        """Return the progress of a session; all 0 for an unknown one."""
        with self._database.reading() as db:
            row = db.execute(
                "SELECT id, last_seq, n_finals, n_words, settled,"
                " (SELECT max(segment) FROM messages WHERE session = sessions.id)"
                " FROM sessions WHERE name = ? ORDER BY id DESC LIMIT 1",
                (name,),
            ).fetchone()
            if row is None:
                return Counts(0, 0, 0, Samples(0), 0, ())
            session, last_seq, n_finals, n_words, settled, last_segment = row
            return Counts(
                last_seq,
                n_finals,
                n_words,
                Samples(settled),
                max(last_segment or 0, n_finals),  # old messages may have been removed
                _select_wordless(db, session),
            )

    def search(
        self,
        text: str | None = None,
        since: float | None = None,
        limit: int | None = None,
        session: str | None = None,
        *,
        with_words: bool = True,
    ) -> list[SearchResult]:
        """Return the finals that contain all of some terms.

        Args:
            text: terms with white space between them, in any order; None for all finals.
            since: earliest time of publication, in seconds since 1970.
            limit: number of finals, the newest ones; None for all.
            session: only those of sessions with this name.
            with_words: False leaves `SearchResult.words` out, which is much quicker.

        Returns:
            Finals with text, in the order of their publication.
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
        with self._database.reading() as db:
            options = read_columns(db, self._database.path).options
            rows = db.execute(
                f"SELECT name, source, sessions.created, model, {options},"  # noqa: S608 - ours
                " final.seq, final.created, final.body, words.body FROM messages AS final"
                " JOIN sessions ON sessions.id = final.session"
                " LEFT JOIN messages AS words ON words.session = final.session"
                " AND words.segment = final.segment AND words.kind = 'words' AND ?"
                f" WHERE {' AND '.join(wheres)}"
                " ORDER BY final.created DESC, final.id DESC LIMIT ?",
                (with_words, *values, -1 if limit is None else limit),
            )
            return [_found(row) for row in rows][::-1]


def select_messages(db: Connection, name: str, since: int, limit: int) -> list[tuple[int, Durable]]:
    """Return the first `limit` messages of the latest session of a name, after number `since`."""
    rows = db.execute(
        "SELECT seq, kind, body FROM messages"
        " WHERE session = (SELECT max(id) FROM sessions WHERE name = ?) AND seq > ?"
        " ORDER BY seq LIMIT ?",
        (name, since, limit),
    )
    return [(seq, decode_message(kind, body)) for seq, kind, body in rows]


def _select_wordless(db: Connection, session: int) -> tuple[Final, ...]:
    """Return the finals of a session that have text and lack words."""
    rows = db.execute(
        "SELECT kind, body FROM messages AS final"
        " WHERE session = ? AND kind = 'final' AND text <> '' AND NOT EXISTS ("
        "  SELECT 1 FROM messages WHERE session = final.session"
        "  AND segment = final.segment AND kind = 'words')"
        " ORDER BY seq",
        (session,),
    )
    finals = (decode_message(kind, body) for kind, body in rows)
    return tuple(final for final in finals if isinstance(final, Final))


def _session_record(
    name: str, source: SessionSource, created: float, model: str, options: str
) -> SessionRecord:
    return SessionRecord(name, source, created, model, decode_options(name, options))


def _found(row: tuple[Any, ...]) -> SearchResult:
    *session, seq, created, final, words = row
    decoded = decode_message("final", final)
    assert isinstance(decoded, Final)
    timed = None if words is None else decode_message("words", words)
    assert timed is None or isinstance(timed, Words)
    return SearchResult(_session_record(*session), seq, created, decoded, timed)
