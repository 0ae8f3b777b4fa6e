"""Notices: what the readers of a session should know about; the session continues."""

from dataclasses import dataclass
from enum import StrEnum

from streamasr.core.units import Samples


class NoticeCode(StrEnum):
    """Codes of notices, for programs. Names on the wire do not change; new ones may be added."""

    LAGGING = "lagging"
    """The text is several seconds behind the speech."""

    # The daemon's microphone.
    AUDIO = "audio"
    """The input cannot be used any more; the session ends."""
    DEVICE_LOST = "device_lost"
    """The microphone was unplugged or stopped; it is searched for again and again."""
    DEVICE_BACK = "device_back"
    OVERFLOW = "overflow"
    """Audio was lost because the machine was too busy to read the microphone."""
    BACKLOG = "backlog"
    """Audio was lost because too much of it waited to be processed."""
    PAUSED = "paused"
    """The microphone was closed on request."""
    RESUMED = "resumed"

    OPTION_IGNORED = "option_ignored"
    """The model cannot follow an option of the session."""

    # Audio that arrived and is of poor use.
    SILENT_INPUT = "silent_input"
    CLIPPING = "clipping"
    DAMAGED_AUDIO = "damaged_audio"

    # The engine.
    WORKER_DIED = "worker_died"
    """A child process died and is being restarted; no text is lost."""
    WORKER_LOST = "worker_lost"
    """A child process dies again and again and is given up."""
    DEGRADED = "degraded"
    """Something does not work as configured, and a replacement is used: the CPU for a GPU."""
    ANSWER_CUT = "answer_cut"
    """A guard of the decoder ended an answer early."""

    # The disk.
    DISK = "disk"
    JOURNAL = "journal"
    """The journal cannot be written; messages wait in memory."""
    HISTORY_LOST = "history_lost"
    """Messages that waited for the journal were given up."""
    SPOOL = "spool"
    """Audio cannot be kept on disk; a crash would lose what is not final."""
    SPOOL_FULL = "spool_full"
    """More audio waits for its text than is kept on disk."""
    SPOOL_BEHIND = "spool_behind"
    """The disk is too slow for the audio."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Condition of a session that its readers should know."""

    code: str
    """One of `NoticeCode`."""
    message: str
    """One sentence for people."""
    lag: Samples
    """Finished speech whose text is still owed."""
