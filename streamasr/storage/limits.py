"""Limits of the store: how long it waits for the disk, and how much it keeps in memory."""

from dataclasses import dataclass

from streamasr.storage.spool import MAX_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """Times and sizes of a `Store`."""

    busy_timeout_s: float = 1.0
    """Wait for another program that writes to the journal."""
    retry_locked_s: float = 0.5
    """Pause between two attempts after that."""
    retry_s: float = 10.0
    """Pause between two attempts after any other failure."""
    report_s: float = 60.0
    """Pause between two reports of the same trouble."""
    changes: int = 10_000
    """Changes that wait for the journal, in memory."""
    audio_bytes: int = 64 << 20
    """Audio that waits for the spool, in memory: 17 minutes of one session."""
    spool_bytes: int = MAX_BYTES
    """Audio of one session, on the disk."""
