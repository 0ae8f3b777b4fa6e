"""Connection to the SQLite file of the journal: private files, transactions, errors as sentences.

A connection belongs to the thread that opened it.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from streamasr.core.errors import StorageError

Connection: TypeAlias = sqlite3.Connection


class NoJournalError(StorageError):
    """The journal does not exist yet, or is empty."""

    default_code = "no_journal"


class JournalLockedError(StorageError):
    """Another program is writing to the journal; a later attempt can succeed."""

    default_code = "journal_locked"


class JournalOrderError(StorageError):
    """The journal can never take this message; another attempt is useless."""

    default_code = "journal_order"


class _Reason(NamedTuple):
    code: str
    sentence: str


_REASONS: Final = {
    "SQLITE_NOTADB": _Reason(
        "journal_not_a_database", "is not a database; move it away, or set storage.directory"
    ),
    "SQLITE_CORRUPT": _Reason("journal_damaged", "is damaged; move it away to begin a new one"),
    "SQLITE_FULL": _Reason("journal_disk_full", "cannot be written: the disk is full"),
    "SQLITE_READONLY": _Reason("journal_read_only", "cannot be written: it is read-only"),
}
"""Error codes of SQLite by their first letters; extended codes begin with the same."""


class Database:
    """One connection to the journal, to write or only to read."""

    def __init__(self, path: Path, connection: Connection) -> None:
        """Use a connection; `open_for_writing` and `open_for_reading` make one."""
        self.path = path
        self._connection = connection

    @classmethod
    def open_for_writing(cls, path: Path, busy_timeout_s: float) -> "Database":
        """Open the file, which must exist.

        Args:
            path: of the database.
            busy_timeout_s: time to wait for another program that is writing.

        Raises:
            StorageError: SQLite cannot open the file.
        """
        with explained(path):
            connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None)
        return cls(path, connection)

    @classmethod
    def open_for_reading(cls, path: Path) -> "Database":
        """Open the file without the right to change it.

        Raises:
            NoJournalError: the file does not exist.
            StorageError: SQLite cannot open the file.
        """
        with explained(path):
            if not path.exists():
                raise NoJournalError(f"there is no journal in {path} yet.")
            uri = f"{path.absolute().as_uri()}?mode=ro"
            connection = sqlite3.connect(uri, uri=True, timeout=1.0, isolation_level=None)
        return cls(path, connection)

    def close(self) -> None:
        """Close the connection and its files."""
        with explained(self.path):
            self._connection.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read from one snapshot, whatever others write meanwhile.

        Raises:
            StorageError: a query inside the context failed.
        """
        with explained(self.path):
            self._connection.execute("BEGIN")
            with self._ending("COMMIT"):
                yield self._connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """Make all changes inside the context, or none of them.

        Raises:
            JournalLockedError: another program is writing, and did not finish in time.
            StorageError: a statement inside the context failed.
        """
        with explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            with self._ending("COMMIT"):
                yield self._connection

    def pragma(self, text: str) -> None:
        """Change a setting of SQLite, outside of transactions.

        Raises:
            StorageError: SQLite refused the setting.
        """
        with explained(self.path):
            self._connection.execute(f"PRAGMA {text}")

    @contextlib.contextmanager
    def _ending(self, end: str) -> Iterator[None]:
        try:
            yield
            self._connection.execute(end)
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into a `StorageError` of one sentence."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explain(path, error) from error
    except OSError as error:
        raise StorageError(
            f"the journal {path} cannot be opened: {error.strerror}.", code="journal_unopenable"
        ) from error
    except UnicodeEncodeError as error:
        raise JournalOrderError(
            f"the journal {path} cannot store this text: {error}.", code="journal_invalid_text"
        ) from error


def _explain(path: Path, error: sqlite3.Error) -> StorageError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return JournalLockedError(f"the journal {path} is locked by another program.")
    for prefix, reason in _REASONS.items():
        if name.startswith(prefix):
            return StorageError(f"the journal {path} {reason.sentence}.", code=reason.code)
    return StorageError(f"the journal {path} cannot be used: {error}.", code="journal_failed")


def create_private(path: Path) -> tuple[int, int]:
    """Create the database file, readable by its owner alone; keep one that exists.

    SQLite gives the files that it puts beside it the same mode.

    Returns:
        The identity of the file, as `file_identity`.

    Raises:
        StorageError: the file or its directory cannot be created.
    """
    with explained(path):
        if not path.parent.exists():
            path.parent.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(file, 0o600)
            return file_identity(os.fstat(file))
        finally:
            os.close(file)


def file_identity(status: os.stat_result) -> tuple[int, int]:
    """Return device and inode: a file that was deleted and created again has others."""
    return status.st_dev, status.st_ino
