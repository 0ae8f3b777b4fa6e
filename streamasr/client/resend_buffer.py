"""Audio and control messages of a client, kept for a while in case they must be sent again; pure.

Positions count the bytes of a session's audio from its start. A control message such as `flush`
stands between two bytes: when it is sent again, it stands in the same place.
"""

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from streamasr.core.errors import ProtocolError
from streamasr.protocols import v1

Control: TypeAlias = v1.Configure | v1.Flush | v1.Stop
"""Control messages that a client may send between its audio."""


@dataclass(frozen=True, slots=True)
class _Entry:
    start: int
    content: bytes | Control

    @property
    def end(self) -> int:
        return self.start + len(self.content) if isinstance(self.content, bytes) else self.start


class ResendBuffer:
    """Audio and control messages: those that wait to be sent, and the latest sent ones."""

    def __init__(self, keep: int) -> None:
        """Begin empty.

        Args:
            keep: bytes of sent audio to keep at least.
        """
        self._keep = keep
        self._sent: deque[_Entry] = deque()
        self._waiting: deque[_Entry] = deque()
        self._first = 0
        self._end = 0
        self._at = 0

    @property
    def end(self) -> int:
        """Position of the next audio that is added."""
        return self._end

    @property
    def n_waiting(self) -> int:
        """Bytes of audio that wait to be sent, for the first time or again."""
        return self._end - self._at

    @property
    def is_sent(self) -> bool:
        """Everything was sent, control messages included."""
        return not self._waiting

    def begin_at(self, position: int) -> None:
        """Begin in the middle of a session that another program began."""
        assert not self._sent, "nothing was sent yet"
        offset = position - self._first
        self._waiting = deque(
            _Entry(entry.start + offset, entry.content) for entry in self._waiting
        )
        self._first = self._at = position
        self._end += offset

    def put(self, content: bytes | Control) -> None:
        """Append audio or a control message."""
        entry = _Entry(self._end, content)
        self._waiting.append(entry)
        self._end = entry.end

    def next(self) -> bytes | Control:
        """Return the first entry that waits; it stays until `advance`."""
        return self._waiting[0].content

    def advance(self) -> None:
        """Note that the first entry that waits was sent."""
        entry = self._waiting.popleft()
        self._sent.append(entry)
        self._at = entry.end
        while self._sent and self._is_old(self._sent[0]):
            self._first = self._sent.popleft().end

    def _is_old(self, entry: _Entry) -> bool:
        age = self._at - entry.end
        return age > self._keep or (age == self._keep and isinstance(entry.content, bytes))

    def rewind(self, position: int) -> None:
        """Make everything from a position on wait again.

        Raises:
            ProtocolError: audio at the position is not kept any more, or was never sent.
        """
        if position < self._first:
            raise ProtocolError(
                "the server lost more audio than was kept to be sent again",
                code="audio_not_kept",
            )
        if position > self._end:
            raise ProtocolError(
                "the server claims to have audio that was never sent", code="audio_never_sent"
            )
        while self._waiting and self._waiting[0].end <= position and self._at < position:
            self.advance()
        while self._sent and (self._sent[-1].end > position or self._sent[-1].start == position):
            self._waiting.appendleft(self._sent.pop())
        self._at = position
        self._split(position)

    def _split(self, position: int) -> None:
        """Cut the first entry that waits in two, where the server has its first part."""
        if self._waiting and (entry := self._waiting[0]).start < position:
            assert isinstance(entry.content, bytes)
            taken = position - entry.start
            self._sent.append(_Entry(entry.start, entry.content[:taken]))
            self._waiting[0] = _Entry(position, entry.content[taken:])
