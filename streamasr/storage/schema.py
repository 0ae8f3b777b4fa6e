"""Tables of the journal, and their migration from earlier versions.

Version 2 keeps all options of a session, and tokens with times of its stable text. Version 1 had
four options and only the tokens, in columns of other names (see `_COLUMNS`). Its documents are
valid in version 2, where every field that they lack has a default, so that the migration renames
the columns and copies nothing.

Only a writer migrates, in one transaction: a process that is killed in the middle leaves the
version before. Readers read every version, and ask for it in each transaction, since a writer may
migrate while they are open.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamasr.core.errors import StorageError
from streamasr.storage.database import Connection

VERSION: Final = 2

_APPLICATION_ID: Final = 0x53415352  # "SASR", as `file` shows it

_TABLES: Final = f"""
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    created REAL NOT NULL,
    ended REAL,
    model TEXT NOT NULL,
    options TEXT NOT NULL,
    last_seq INTEGER NOT NULL DEFAULT 0,
    n_finals INTEGER NOT NULL DEFAULT 0,
    n_words INTEGER NOT NULL DEFAULT 0,
    settled INTEGER NOT NULL DEFAULT 0,
    stable_text TEXT
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
PRAGMA user_version = {VERSION};
"""
"""Sessions carry their totals, so that these survive the removal of old messages. `created` and
`ended` are seconds since 1970, positions are samples. `options`, `stable_text` and `body` are the
documents of `documents.py`."""

_FROM_1_TO_2: Final = """
ALTER TABLE sessions RENAME COLUMN wishes TO options;
ALTER TABLE sessions RENAME COLUMN promise TO stable_text;
PRAGMA user_version = 2;
"""

_MIGRATIONS: Final = {1: _FROM_1_TO_2}


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns that are not the same in all versions."""

    options: str
    stable_text: str


_COLUMNS: Final = {1: Columns("wishes", "promise"), 2: Columns("options", "stable_text")}


def read_version(db: Connection, path: Path) -> int:
    """Return the version of the tables; 0 for an empty database.

    Raises:
        StorageError: another program or a newer version of streamasr made the database.
    """
    [[origin]] = db.execute("PRAGMA application_id")
    [[version]] = db.execute("PRAGMA user_version")
    [[n_tables]] = db.execute("SELECT count(*) FROM sqlite_master")
    if n_tables == 0 and origin == 0:
        return 0
    if origin != _APPLICATION_ID:
        raise StorageError(
            f"{path} is a database of another program; set storage.directory.",
            code="journal_foreign",
        )
    if version > VERSION:
        raise StorageError(
            f"the journal {path} was written by a newer version of streamasr (its format is"
            f" {version}, this version reads up to {VERSION}): upgrade, or set storage.directory.",
            code="journal_too_new",
        )
    return int(version)


def read_columns(db: Connection, path: Path) -> Columns:
    """Return the names of columns in a database that is not empty.

    Raises:
        StorageError: another program or a newer version of streamasr made the database.
    """
    return _COLUMNS[read_version(db, path)]


def bring_up_to_date(db: Connection, path: Path) -> None:
    """Create the tables, or migrate those of an earlier version.

    Args:
        db: inside a transaction, without which a crash would leave half of the tables.
        path: of the database, for the error.

    Raises:
        StorageError: another program or a newer version of streamasr made the database.
    """
    version = read_version(db, path)
    if version == 0:
        _execute_all(db, _TABLES)
        return
    for earlier in range(version, VERSION):
        _execute_all(db, _MIGRATIONS[earlier])


def _execute_all(db: Connection, statements: str) -> None:
    """Execute statements one by one; `executescript` would end the transaction."""
    for statement in statements.split(";"):
        db.execute(statement)
