"""Conversion of the daemon's messages to edits of the text before the caret; pure.

The mode decides when text is typed; only `live` types text that may still change:

    stable  the stable prefix of a segment as it grows, then the rest with its final
    final   each segment with its final
    live    every partial in full; later changes are corrected by the smallest edit

Segments are typed in order: a segment waits until the one before has its final, or is known to be
lost. A `Writer` converts the recognised words to written text.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias

from streamasr.client import v1
from streamasr.writing.edits import Edit, graphemes, smallest_edit

Mode: TypeAlias = Literal["stable", "final", "live"]
MODES: Final[tuple[Mode, ...]] = ("stable", "final", "live")

_FOR_EVER: Final = float("inf")


class Writer(Protocol):
    """Converter of spoken text to written text, which also executes commands; see `writing`."""

    def grow(self, text: str, language: str | None) -> Edit:
        """Extend the open segment to a stable prefix, which begins with the previous one."""

    def settle(self, text: str, language: str | None) -> Edit:
        """Write the final text of the open segment, and close the segment."""

    def preview(self, text: str, language: str | None) -> str:
        """Return all that would be written if the open segment ended with this text."""

    def drop(self) -> None:
        """Close the open segment without a final; its text written so far stays."""

    def forget(self) -> None:
        """Forget the text written so far, because the caret was moved away from it."""


@dataclass(slots=True)
class _Segment:
    start: float
    latest: "v1.Partial | v1.Final | None" = None
    is_typed: bool = False
    """At least a part of the segment has been typed."""


@dataclass(slots=True)
class Composer:
    """Composer of the text of one dictation."""

    mode: Mode
    writer: Writer
    _open: dict[int, _Segment] = field(default_factory=dict)
    """Segments that have begun, by number; only the first of them may be typed in part."""
    _last: int = 0
    """Number of the last segment that is over."""
    _shown: str = ""
    """In `live` mode, the part of the text in the window that the writer still remembers."""
    _has_moved: bool = False
    _n_here: int = 0
    """Characters typed since the caret was moved; at most this number may be deleted here."""

    def receive(self, message: v1.ServerMessage) -> list[Edit]:
        """Process a message; return the edits to apply to the window, in order."""
        match message:
            case v1.Speech():
                self._segment(message)
            case v1.Partial() | v1.Final():
                if (segment := self._segment(message)) is not None:
                    segment.latest = message
            case v1.Gap(end=end):
                self._lose_before(end)
            case v1.End():
                self._lose_before(_FOR_EVER)
            case _:
                return []
        return [edit for edit in self._take() if edit]

    def move(self) -> None:
        """Note that the caret is in another window, where the text typed so far does not exist.

        The rest of a segment that is being typed goes to the new window, too. Text that the new
        window already contained is never deleted.
        """
        self._has_moved = True
        self._n_here = 0

    def abandon(self) -> None:
        """End the utterance; the next one numbers its segments from the beginning again."""
        self._lose_before(_FOR_EVER, even_finals=True)
        self._last = 0

    def interrupt(self) -> None:
        """Note that typing was interrupted: the number of characters typed is unknown."""
        self._n_here = 0

    def lose_track(self) -> None:
        """Note that typing failed: the text may be missing, so skip the rest of its segment."""
        last = max([self._last, *self._open])
        self.abandon()
        self._last = last
        self.move()

    def _segment(self, message: v1.Speech | v1.Partial | v1.Final) -> _Segment | None:
        if message.segment <= self._last:
            return None
        return self._open.setdefault(message.segment, _Segment(message.start))

    def _lose_before(self, end: float, *, even_finals: bool = False) -> None:
        """Give up the segments that began before a time and have no final."""
        for number, segment in list(self._open.items()):
            if segment.start < end and (even_finals or not isinstance(segment.latest, v1.Final)):
                if segment.is_typed:
                    self._drop(segment)
                self._last = max(self._last, number)
                del self._open[number]

    def _drop(self, segment: _Segment) -> None:
        if self.mode == "live" and segment.latest is not None:
            # The window shows this text, so the writer must count it as written.
            self._settle(segment.latest)
        else:
            self.writer.drop()

    def _take(self) -> list[Edit]:
        """Write all that can be written by now."""
        edits: list[Edit] = []
        while self._open:
            number = min(self._open)
            segment = self._open[number]
            if segment.latest is None:
                break
            if not segment.is_typed:
                self._arrive()
            edits.append(self._within_reach(self._write(segment, segment.latest)))
            if isinstance(segment.latest, v1.Partial):
                break
            del self._open[number]
            self._last = number
        return edits

    def _arrive(self) -> None:
        """Begin a segment; in a new window, forget the text of the old one."""
        if self._has_moved and not self._n_here:
            self._shown = ""
            self.writer.forget()
        self._has_moved = False

    def _within_reach(self, edit: Edit) -> Edit:
        """Limit the deletion of an edit to characters that were typed here."""
        n_deleted = min(edit.delete, self._n_here)
        self._n_here += len(graphemes(edit.text)) - n_deleted
        return Edit(n_deleted, edit.text)

    def _write(self, segment: _Segment, message: v1.Partial | v1.Final) -> Edit:
        if self.mode == "live":
            segment.is_typed = True
            return self._show(message)
        if isinstance(message, v1.Partial):
            if self.mode == "final" or not message.stable:
                return Edit()
            segment.is_typed = True
            return self.writer.grow(message.text[: message.stable], message.language)
        return self.writer.settle(message.text, message.language)

    def _show(self, message: v1.Partial | v1.Final) -> Edit:
        """Change the window to the text that it would contain if the message were final."""
        wanted = self.writer.preview(message.text, message.language)
        edit = smallest_edit(self._shown, wanted)
        self._shown = wanted
        if isinstance(message, v1.Final):
            self._settle(message)
        return edit

    def _settle(self, message: v1.Partial | v1.Final) -> None:
        self.writer.settle(message.text, message.language)
        self._shown = self.writer.preview("", None)  # the oldest text may be forgotten
