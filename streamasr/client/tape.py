"""What a client says to the server, kept for a while in case it has to be said again; pure.

Positions count the bytes of a session's audio from its start. Orders such as `flush` stand between
two bytes: said again, they come where they came the first time.
"""

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from streamasr.core.errors import ProtocolError
from streamasr.protocols import v1

Order: TypeAlias = v1.Configure | v1.Flush | v1.Stop
"""What a client may say in the midst of its audio."""


@dataclass(frozen=True, slots=True)
class _Entry:
    start: int
    said: bytes | Order

    @property
    def end(self) -> int:
        return self.start + len(self.said) if isinstance(self.said, bytes) else self.start


class Tape:
    """Audio and orders: those that were sent, the oldest forgotten, and those that wait."""

    def __init__(self, keep: int) -> None:
        """Begin with nothing.

        Args:
            keep: bytes of sent audio that are kept at least, if there were so many.
        """
        self._keep = keep
        self._sent: deque[_Entry] = deque()
        self._waiting: deque[_Entry] = deque()
        self._first = 0
        self._end = 0
        self._at = 0

    @property
    def end(self) -> int:
        """Where the next audio goes."""
        return self._end

    @property
    def n_waiting(self) -> int:
        """Bytes of audio that have not been sent, or have to be sent again."""
        return self._end - self._at

    @property
    def is_sent(self) -> bool:
        """Whether nothing waits, no order either."""
        return not self._waiting

    def begin_at(self, position: int) -> None:
        """Begin in the middle of a session that somebody else has begun."""
        assert not self._sent, "nothing was sent yet"
        offset = position - self._first
        self._waiting = deque(_Entry(entry.start + offset, entry.said) for entry in self._waiting)
        self._first = self._at = position
        self._end += offset

    def put(self, said: bytes | Order) -> None:
        """Append audio or an order to what waits."""
        entry = _Entry(self._end, said)
        self._waiting.append(entry)
        self._end = entry.end

    def next(self) -> bytes | Order:
        """What is to be sent now; it waits until `advance`."""
        return self._waiting[0].said

    def advance(self) -> None:
        """`next` has been sent."""
        entry = self._waiting.popleft()
        self._sent.append(entry)
        self._at = entry.end
        while self._sent and self._is_old(self._sent[0]):
            self._first = self._sent.popleft().end

    def _is_old(self, entry: _Entry) -> bool:
        age = self._at - entry.end
        return age > self._keep or (age == self._keep and isinstance(entry.said, bytes))

    def rewind(self, position: int) -> None:
        """Let everything wait again that was said from a position on.

        Raises:
            ProtocolError: that was forgotten, or never said.
        """
        if position < self._first:
            raise ProtocolError("the server lost more audio than was kept to be sent again")
        if position > self._end:
            raise ProtocolError("the server claims to have audio that was never sent")
        while self._waiting and self._waiting[0].end <= position and self._at < position:
            self.advance()
        while self._sent and (self._sent[-1].end > position or self._sent[-1].start == position):
            self._waiting.appendleft(self._sent.pop())
        self._at = position
        self._split(position)

    def _split(self, position: int) -> None:
        """Cut the first of what waits in two where the server has one part of it."""
        if self._waiting and (entry := self._waiting[0]).start < position:
            assert isinstance(entry.said, bytes)
            taken = position - entry.start
            self._sent.append(_Entry(entry.start, entry.said[:taken]))
            self._waiting[0] = _Entry(position, entry.said[taken:])
