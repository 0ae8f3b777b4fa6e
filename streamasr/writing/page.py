"""What has been written, piece by piece, and how to take it back."""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

Casing: TypeAlias = Literal["cap", "all caps", "no caps"]

_MAX_PIECES = 100
"""That can be taken back."""


@dataclass(frozen=True, slots=True)
class Line:
    """What of the text before the caret matters to what comes next."""

    last: str = ""
    """Its last character; empty where nothing is known of it."""
    is_joined: bool = False
    """Nothing is to come between it and what comes next."""
    ends_in_pause: bool = False
    """It ends in a mark that the recogniser wrote where the speaker paused."""
    begins_sentence: bool = False
    """The speaker has ended a sentence or a line in so many words."""
    casing: Casing | None = None
    """What was ordered for the next word."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What was dictated in one go: what "scratch that" takes back."""

    text: str
    before: Line
    after: Line


@dataclass(frozen=True, slots=True)
class Change:
    """A piece that was written, or one that was taken back."""

    piece: Piece
    is_removal: bool


@dataclass(frozen=True, slots=True)
class Page:
    """What was written of late, and how it came about."""

    pieces: tuple[Piece, ...] = ()
    changes: tuple[Change, ...] = ()
    line: Line = Line()
    is_open: bool = False
    """The last piece is still being written."""

    @property
    def text(self) -> str:
        """What stands there."""
        return "".join(piece.text for piece in self.pieces)

    def typed(self, text: str, line: Line) -> "Page":
        """With more text at the end."""
        if self.is_open:
            piece = replace(self.pieces[-1], text=self.pieces[-1].text + text, after=line)
            pieces, changes = self.pieces[:-1], self.changes[:-1]
        else:
            piece = Piece(text, self.line, line)
            pieces, changes = self.pieces, self.changes
        return Page((*pieces, piece), (*changes, Change(piece, is_removal=False)), line, True)

    def ordered(self, casing: Casing) -> "Page":
        """With an order for the next word."""
        return replace(self, line=replace(self.line, casing=casing))

    def scratched(self) -> "Page":
        """Without its last piece."""
        if not self.pieces:
            return self.closed()
        piece = self.pieces[-1]
        changes = (*self.changes, Change(piece, is_removal=True))
        return Page(self.pieces[:-1], changes, replace(piece.before, casing=None))

    def undone(self) -> "Page":
        """Without its last change; what was taken back by it stands there again."""
        if not self.changes:
            return self.closed()
        last, changes = self.changes[-1], self.changes[:-1]
        if last.is_removal:
            return Page((*self.pieces, last.piece), changes, last.piece.after)
        return Page(self.pieces[:-1], changes, replace(last.piece.before, casing=None))

    def shortened(self) -> "Page":
        """Without its last character, if the last change wrote it."""
        if not self.changes or self.changes[-1].is_removal or len(self.pieces[-1].text) < 2:
            return self
        old = self.pieces[-1]
        text = old.text[:-1]
        line = replace(self.line, last=text[-1], ends_in_pause=False)
        piece = replace(old, text=text, after=line)
        changes = (*self.changes[:-1], Change(piece, is_removal=False))
        return Page((*self.pieces[:-1], piece), changes, line, self.is_open)

    def closed(self) -> "Page":
        """The same; what comes next is a piece of its own."""
        return replace(self, is_open=False)

    def trimmed(self) -> "Page":
        """Without what is too old to be taken back."""
        return replace(self, pieces=self.pieces[-_MAX_PIECES:], changes=self.changes[-_MAX_PIECES:])
