"""Queue of what one reader has not been sent yet; pure.

Durable messages are never dropped for a slow reader: they wait, up to a limit at which the reader's
connection is closed (it can resume, and gets all of them again). Of the partials only the newest
waits, and none once the final of its segment is there.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from streamasr.core.messages import Final as FinalText
from streamasr.core.messages import Partial
from streamasr.core.notices import Notice
from streamasr.core.outgoing import Outgoing

MAX_WAITING: Final = 512
"""Entries; about half an hour of finals and words of dense speech."""

_MAX_NOTICES: Final = 8


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An event on its way to readers; all readers of a session share it."""

    event: Outgoing
    seq: int | None = None
    """Number of a durable message."""
    encoded: dict[str, object] = field(default_factory=dict, compare=False, repr=False)
    """The event as each dialect encodes it, by its name. Only connections look at it: the first one
    of a dialect encodes the event, the others of that dialect send the same."""


@dataclass(slots=True)
class Outbox:
    """The entries that wait for one reader, oldest first."""

    limit: int = MAX_WAITING
    _waiting: deque[OutboxEntry] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_overfull(self) -> bool:
        """The reader has fallen too far behind."""
        return len(self._waiting) > self.limit

    def put(self, entry: OutboxEntry) -> None:
        """Append an entry, and drop those that it replaces."""
        match entry.event:
            case Partial():
                self._drop_partials()
            case FinalText(segment=segment):
                self._drop_partials(segment)
            case Notice():
                self._drop_oldest_notice()
        self._waiting.append(entry)

    def take(self) -> OutboxEntry | None:
        """Remove and return the oldest entry; None when the outbox is empty."""
        return self._waiting.popleft() if self._waiting else None

    def _drop_partials(self, segment: int | None = None) -> None:
        """Drop the partials of a segment; None drops those of all."""
        kept = (
            entry
            for entry in self._waiting
            if not isinstance(entry.event, Partial) or segment not in (None, entry.event.segment)
        )
        self._waiting = deque(kept)

    def _drop_oldest_notice(self) -> None:
        notices = [entry for entry in self._waiting if isinstance(entry.event, Notice)]
        if len(notices) >= _MAX_NOTICES:
            self._waiting.remove(notices[0])
