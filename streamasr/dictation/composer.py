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

from streamasr.dictation.edits import Edit, graphemes, smallest_edit
from streamasr.protocols import v1

Mode: TypeAlias = Literal["stable", "final", "live"]
MODES: Final[tuple[Mode, ...]] = ("stable", "final", "live")

Spoken: TypeAlias = v1.Partial | v1.Final

_REMEMBERED: Final = 4000
"""Characters of what was typed that may still be changed."""


class Writer(Protocol):
    """Knows what spoken text looks like in writing, and what is a command."""

    def grow(self, text: str, language: str | None) -> Edit:
        """Take the stable beginning of the open segment, which begins with that of before."""

    def settle(self, text: str, language: str | None) -> Edit:
        """Take the final text of the open segment; another one begins."""

    def drop(self) -> None:
        """The open segment has no final."""


@dataclass(slots=True)
class Composer:
    """The text of one dictation."""

    mode: Mode
    writer: Writer
    _wanted: str = ""
    """What the writer has written."""
    _shown: str = ""
    """What stands in the window, as far as we have typed it."""
    _waiting: dict[int, list[Spoken]] = field(default_factory=dict)
    """By segment; those that have begun, the first of them open."""
    _starts: dict[int, float] = field(default_factory=dict)
    _last: int = 0
    """The last segment that is over."""

    @property
    def has_open_segment(self) -> bool:
        """Whether a segment has begun whose final is owed."""
        return bool(self._waiting)

    def receive(self, message: v1.ServerMessage) -> Edit:
        """Take a message; what to change in the window."""
        match message:
            case v1.Speech(segment=segment, start=start):
                self._begin(segment, start)
            case v1.Partial(segment=segment, start=start):
                if segment > self._last:
                    self._begin(segment, start)
                    self._waiting[segment] = [message]
            case v1.Final(segment=segment, start=start):
                if segment > self._last:
                    self._begin(segment, start)
                    self._waiting[segment] = [message]
            case v1.Gap(end=end):
                self._lose_before(end)
            case v1.End():
                self._lose_before(float("inf"))
            case _:
                return Edit()
        return self._show(self._take())

    def abandon(self) -> None:
        """Type no more of what has begun; what stands there stays."""
        self._lose_before(float("inf"))
        self._wanted = self._shown

    def begin_anew(self) -> None:
        """Segments are numbered from 1 again: those of another utterance follow."""
        self.abandon()
        self._last = 0

    def _begin(self, segment: int, start: float) -> None:
        if segment > self._last:
            self._waiting.setdefault(segment, [])
            self._starts.setdefault(segment, start)

    def _lose_before(self, end: float) -> None:
        """Forget segments that began before a time and have no final."""
        for segment in [n for n, start in self._starts.items() if start < end]:
            if not any(isinstance(each, v1.Final) for each in self._waiting[segment]):
                if segment == min(self._waiting):
                    self.writer.drop()
                del self._waiting[segment], self._starts[segment]

    def _take(self) -> str:
        """Write what can be written by now; what may change of the open segment."""
        while self._waiting:
            segment = min(self._waiting)
            spoken = self._waiting[segment]
            if not spoken:
                return ""
            match spoken[-1]:
                case v1.Final(text=text, language=language):
                    self._write(self.writer.settle(text, language))
                    del self._waiting[segment], self._starts[segment]
                    self._last = segment
                case v1.Partial(text=text, stable=stable, language=language):
                    if self.mode != "final" and stable:
                        self._write(self.writer.grow(text[:stable], language))
                    return text[stable:] if self.mode == "live" else ""
        return ""

    def _write(self, edit: Edit) -> None:
        kept = graphemes(self._wanted)
        self._wanted = "".join(kept[: len(kept) - edit.delete]) + edit.text

    def _show(self, tail: str) -> Edit:
        will = self._wanted + tail
        edit = smallest_edit(self._shown, will)
        self._shown = will
        self._forget()
        return edit

    def _forget(self) -> None:
        """Text that was typed long ago is nobody's business any more."""
        excess = len(self._wanted) - 2 * _REMEMBERED
        if excess > 0 and self._shown.startswith(self._wanted):
            n_old = len(self._wanted) - _REMEMBERED
            self._wanted, self._shown = self._wanted[n_old:], self._shown[n_old:]
