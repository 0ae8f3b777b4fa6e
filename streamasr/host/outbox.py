"""What one reader has not been sent yet; pure.

Nothing that lasts is ever dropped for a slow reader: it waits, up to a limit beyond which the
reader is given up (it can come back and have everything again). Of partials only the newest waits,
and none once the final of its segment is there.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from streamasr.protocols import v1

MAX_WAITING: Final = 512
"""Messages; about half an hour of finals and words of dense speech."""

_MAX_WARNINGS: Final = 8


@dataclass(slots=True)
class Outbox:
    """The messages that wait for one reader, oldest first."""

    limit: int = MAX_WAITING
    _waiting: deque[tuple[v1.ServerMessage, str]] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_overfull(self) -> bool:
        """The reader has not taken what lasts for too long."""
        return len(self._waiting) > self.limit

    def put(self, message: v1.ServerMessage, text: str) -> None:
        """Add a message and its encoded text."""
        match message:
            case v1.Partial():
                self._drop_partials()
            case v1.Final(segment=segment):
                self._drop_partials(segment)
            case v1.Warning():
                self._drop_oldest_warning()
        self._waiting.append((message, text))

    def take(self) -> str | None:
        """The text of the next message to send; None when there is none."""
        return self._waiting.popleft()[1] if self._waiting else None

    def _drop_partials(self, segment: int | None = None) -> None:
        kept = (
            entry
            for entry in self._waiting
            if not isinstance(entry[0], v1.Partial) or segment not in (None, entry[0].segment)
        )
        self._waiting = deque(kept)

    def _drop_oldest_warning(self) -> None:
        warnings = [entry for entry in self._waiting if isinstance(entry[0], v1.Warning)]
        if len(warnings) >= _MAX_WARNINGS:
            self._waiting.remove(warnings[0])
