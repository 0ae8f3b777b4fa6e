"""Paths inside the storage directory."""

from pathlib import Path


def journal_path(directory: Path) -> Path:
    """Return the path of the database of published messages."""
    return directory / "journal.sqlite3"


def spool_path(directory: Path) -> Path:
    """Return the path of the directory of audio without a final."""
    return directory / "spool"


def lock_path(directory: Path) -> Path:
    """Return the path of the file that the running daemon locks, and that holds its PID."""
    return directory / "daemon.lock"
