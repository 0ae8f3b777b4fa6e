"""Where in the storage directory everything is."""

from pathlib import Path


def journal_path(directory: Path) -> Path:
    """The database of what was published."""
    return directory / "journal.sqlite3"


def spool_path(directory: Path) -> Path:
    """The directory of the audio that is not final."""
    return directory / "spool"


def lock_path(directory: Path) -> Path:
    """The file that the running daemon holds, with the number of its process."""
    return directory / "daemon.lock"
