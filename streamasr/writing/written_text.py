"""Text written recently, divided into pieces that can be deleted and restored."""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

Casing: TypeAlias = Literal["cap", "all caps", "no caps"]

_MAX_PIECES = 100
"""Pieces that can be deleted by command."""


@dataclass(frozen=True, slots=True)
class CaretContext:
    """Properties of the text before the caret that affect the text written next."""

    last: str = ""
    """Last character before the caret; empty if unknown."""
    is_joined: bool = False
    """The next text follows without a space."""
    ends_in_pause: bool = False
    """The text ends in a mark that the recogniser wrote for a pause."""
    begins_sentence: bool = False
    """The speaker ended a sentence or a line by command."""
    casing: Casing | None = None
    """Casing of the next word, as commanded."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text dictated in one go, which "scratch that" deletes."""

    text: str
    before: CaretContext
    after: CaretContext


@dataclass(frozen=True, slots=True)
class Change:
    """Addition or deletion of a piece."""

    piece: Piece
    is_removal: bool


@dataclass(frozen=True, slots=True)
class WrittenText:
    """Text written recently, with the changes that led to it."""

    pieces: tuple[Piece, ...] = ()
    changes: tuple[Change, ...] = ()
    context: CaretContext = CaretContext()
    is_open: bool = False
    """The last piece is still being written."""

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(piece.text for piece in self.pieces)

    def with_text(self, text: str, context: CaretContext) -> "WrittenText":
        """Return the text with more text at its end."""
        if self.is_open:
            piece = replace(self.pieces[-1], text=self.pieces[-1].text + text, after=context)
            pieces, changes = self.pieces[:-1], self.changes[:-1]
        else:
            piece = Piece(text, self.context, context)
            pieces, changes = self.pieces, self.changes
        return WrittenText(
            (*pieces, piece), (*changes, Change(piece, is_removal=False)), context, True
        )

    def with_casing(self, casing: Casing) -> "WrittenText":
        """Return the same text, with a casing for the next word."""
        return replace(self, context=replace(self.context, casing=casing))

    def without_last_piece(self) -> "WrittenText":
        """Return the text without its last piece."""
        if not self.pieces:
            return self.closed()
        piece = self.pieces[-1]
        changes = (*self.changes, Change(piece, is_removal=True))
        return WrittenText(self.pieces[:-1], changes, replace(piece.before, casing=None))

    def without_last_change(self) -> "WrittenText":
        """Return the text before its last change; a piece deleted by the change is restored."""
        if not self.changes:
            return self.closed()
        last, changes = self.changes[-1], self.changes[:-1]
        if last.is_removal:
            return WrittenText((*self.pieces, last.piece), changes, last.piece.after)
        return WrittenText(self.pieces[:-1], changes, replace(last.piece.before, casing=None))

    def without_last_character(self) -> "WrittenText":
        """Return the text without its last character, if the last change wrote it."""
        if not self.changes or self.changes[-1].is_removal or len(self.pieces[-1].text) < 2:
            return self
        old = self.pieces[-1]
        text = old.text[:-1]
        context = replace(self.context, last=text[-1], ends_in_pause=False)
        piece = replace(old, text=text, after=context)
        changes = (*self.changes[:-1], Change(piece, is_removal=False))
        return WrittenText((*self.pieces[:-1], piece), changes, context, self.is_open)

    def closed(self) -> "WrittenText":
        """Return the same text; the next text begins a new piece."""
        return replace(self, is_open=False)

    def trimmed(self) -> "WrittenText":
        """Return the text without pieces that are too old to be deleted."""
        return replace(self, pieces=self.pieces[-_MAX_PIECES:], changes=self.changes[-_MAX_PIECES:])
