"""Journals as earlier versions of the program have written them, made by their own SQL."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

VERSION_1 = """
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
PRAGMA application_id = 0x53415352;
PRAGMA user_version = 1;
"""
"""Schema of version 0.1, as it created its journals."""

SESSIONS_1: Sequence[tuple[object, ...]] = (
    (1, "over", "client", 1000.0, 1010.0, "tiny", '{"language":null,"context":"Ada"}', 1, 1, 0),
    (
        2, "microphone", "microphone", 2000.0, None, "tiny",
        '{"language":"French","context":"Ada, 北京","partials":true,"words":false}', 2, 1, 1,
    ),
)  # fmt: skip
"""Values of the columns, `settled` and the stable text left out."""

PROMISE_1 = '{"segment":2,"start":4000,"text":"bonne apr","forced":[104,205,306]}'

_FINAL_1 = (
    '{"segment":1,"text":"bonjour 北京","language":"French","start":1000,"end":3000,'
    '"reason":"silence"}'
)
_WORDS_1 = (
    '{"segment":1,"words":[{"text":"bonjour","start":1000,"end":2000,"score":0.5,"space_after":true}],'
    '"method":"aligned"}'
)


def write_version_1(path: Path) -> sqlite3.Connection:
    """Write a journal of version 1 with an ended session, and one in the middle of a segment.

    Returns:
        The open connection. While it stays open, all of the journal is in the log of writes, as a
        killed process leaves it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute("BEGIN IMMEDIATE")
    for statement in VERSION_1.split(";"):
        db.execute(statement)
    db.execute("COMMIT")
    columns = "id, name, source, created, ended, model, wishes, last_seq, n_finals, n_words"
    for session in SESSIONS_1:
        db.execute(f"INSERT INTO sessions ({columns}) VALUES (?,?,?,?,?,?,?,?,?,?)", session)
    for row, owner, seq, created in ((1, 1, 1, 1005.0), (2, 2, 1, 2005.0)):
        db.execute(
            "INSERT INTO messages VALUES (?, ?, ?, ?, 'final', 1, 1000, 3000, 'French', ?, ?)",
            (row, owner, seq, created, "bonjour 北京", _FINAL_1),
        )
        db.execute("INSERT INTO texts (rowid, spaced) VALUES (?, 'bonjour 北  京 ')", (row,))
    db.execute(
        "INSERT INTO messages VALUES (3, 2, 2, 2006.0, 'words', 1, NULL, NULL, NULL, NULL, ?)",
        (_WORDS_1,),
    )
    db.execute("UPDATE sessions SET settled = 3000, promise = ? WHERE id = 2", (PROMISE_1,))
    return db
