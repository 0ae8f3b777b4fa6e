"""From messages of the daemon to changes of the text before the caret; pure.

What is typed never runs ahead of what is certain, but in `live` mode:

    stable  the stable beginning of a segment as it grows, then the rest with its final
    final   each segment with its final
    live    all of a partial; what turns out otherwise is corrected by the smallest edit

Segments are typed in order: the next one waits until the one before it has its final, or is known
to have been lost. What becomes of the words, a `Writer` knows.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias

from streamasr.client import v1
from streamasr.writing.edits import Edit, graphemes, smallest_edit

Mode: TypeAlias = Literal["stable", "final", "live"]
MODES: Final[tuple[Mode, ...]] = ("stable", "final", "live")

_FOR_EVER: Final = float("inf")


class Writer(Protocol):
    """Knows what spoken text looks like in writing, and what is a command; see `writing`."""

    def grow(self, text: str, language: str | None) -> Edit:
        """Take the stable beginning of the open segment, which begins with that of before."""

    def settle(self, text: str, language: str | None) -> Edit:
        """Take the final text of the open segment; another one begins."""

    def preview(self, text: str, language: str | None) -> str:
        """All that would be written, if the open segment ended with this text."""

    def drop(self) -> None:
        """The open segment has no final; what is written of it stays."""

    def forget(self) -> None:
        """The caret has moved: what was written cannot be taken back, nor joined to."""


@dataclass(slots=True)
class _Segment:
    start: float
    said: "v1.Partial | v1.Final | None" = None
    is_typed: bool = False
    """Some of it."""


@dataclass(slots=True)
class Composer:
    """The text of one dictation."""

    mode: Mode
    writer: Writer
    _open: dict[int, _Segment] = field(default_factory=dict)
    """By number: those that have begun; only of the first is anything typed."""
    _last: int = 0
    """The last segment that is over."""
    _shown: str = ""
    """In `live` mode, what stands in the window of what the writer remembers."""
    _has_moved: bool = False
    _n_here: int = 0
    """Characters typed since the caret was moved: no more of them can be taken away here."""

    def receive(self, message: v1.ServerMessage) -> list[Edit]:
        """Take a message; what to change in the window, in order."""
        match message:
            case v1.Speech():
                self._segment(message)
            case v1.Partial() | v1.Final():
                if (segment := self._segment(message)) is not None:
                    segment.said = message
            case v1.Gap(end=end):
                self._lose_before(end)
            case v1.End():
                self._lose_before(_FOR_EVER)
            case _:
                return []
        return [edit for edit in self._take() if edit]

    def move(self) -> None:
        """The caret is in another window: what comes next has nothing to do with what was typed.

        The rest of a segment that is being typed goes there too; nothing is taken away there that
        was there before.
        """
        self._has_moved = True
        self._n_here = 0

    def abandon(self) -> None:
        """Nothing more comes of this utterance; its next one numbers its segments anew."""
        self._lose_before(_FOR_EVER, even_finals=True)
        self._last = 0

    def break_off(self) -> None:
        """Typing was interrupted: nobody knows how much stands there that could be taken away."""
        self._n_here = 0

    def lose_track(self) -> None:
        """What was to be typed may not have been; the rest of its segment is left out."""
        last = max([self._last, *self._open])
        self.abandon()
        self._last = last
        self.move()

    def _segment(self, message: v1.Speech | v1.Partial | v1.Final) -> _Segment | None:
        if message.segment <= self._last:
            return None
        return self._open.setdefault(message.segment, _Segment(message.start))

    def _lose_before(self, end: float, *, even_finals: bool = False) -> None:
        """Give up segments that began before a time and have no final."""
        for number, segment in list(self._open.items()):
            if segment.start < end and (even_finals or not isinstance(segment.said, v1.Final)):
                if segment.is_typed:
                    self._drop(segment)
                self._last = max(self._last, number)
                del self._open[number]

    def _drop(self, segment: _Segment) -> None:
        if self.mode == "live" and segment.said is not None:
            # It stands there, so it has been written.
            self._settle(segment.said)
        else:
            self.writer.drop()

    def _take(self) -> list[Edit]:
        """Write what can be written by now."""
        edits: list[Edit] = []
        while self._open:
            number = min(self._open)
            segment = self._open[number]
            if segment.said is None:
                break
            if not segment.is_typed:
                self._arrive()
            edits.append(self._within_reach(self._write(segment, segment.said)))
            if isinstance(segment.said, v1.Partial):
                break
            del self._open[number]
            self._last = number
        return edits

    def _arrive(self) -> None:
        """Begin a segment, in another window perhaps."""
        if self._has_moved and not self._n_here:
            self._shown = ""
            self.writer.forget()
        self._has_moved = False

    def _within_reach(self, edit: Edit) -> Edit:
        """An edit without what it would take away of somebody else's."""
        n_deleted = min(edit.delete, self._n_here)
        self._n_here += len(graphemes(edit.text)) - n_deleted
        return Edit(n_deleted, edit.text)

    def _write(self, segment: _Segment, said: v1.Partial | v1.Final) -> Edit:
        if self.mode == "live":
            segment.is_typed = True
            return self._show(said)
        if isinstance(said, v1.Partial):
            if self.mode == "final" or not said.stable:
                return Edit()
            segment.is_typed = True
            return self.writer.grow(said.text[: said.stable], said.language)
        return self.writer.settle(said.text, said.language)

    def _show(self, said: v1.Partial | v1.Final) -> Edit:
        """Change the window to what it would be, if this were final."""
        wanted = self.writer.preview(said.text, said.language)
        edit = smallest_edit(self._shown, wanted)
        self._shown = wanted
        if isinstance(said, v1.Final):
            self._settle(said)
        return edit

    def _settle(self, said: v1.Partial | v1.Final) -> None:
        self.writer.settle(said.text, said.language)
        self._shown = self.writer.preview("", None)  # it may have forgotten the oldest by now
