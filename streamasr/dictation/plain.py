"""Text as it was recognised, segments joined as their language joins words."""

import unicodedata

from streamasr.dictation.edits import Edit


class PlainWriter:
    """A `Writer` without rules or commands."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._last = ""
        self._open = ""

    def grow(self, text: str, language: str | None) -> Edit:
        """See `Writer.grow`."""
        del language
        new = text[len(self._open) :]
        joint = "" if self._open or not needs_space(self._last, new) else " "
        self._open = text
        self._last = new[-1:] or self._last
        return Edit(0, joint + new)

    def settle(self, text: str, language: str | None) -> Edit:
        """See `Writer.settle`."""
        edit = self.grow(text, language)
        self._open = ""
        return edit

    def drop(self) -> None:
        """See `Writer.drop`."""
        self._open = ""


def needs_space(before: str, after: str) -> bool:
    """Whether a space belongs between two segments."""
    if not before or not after or before[-1:].isspace() or after[:1].isspace():
        return False
    return not (_is_wide(before[-1]) or _is_wide(after[0]))


def _is_wide(character: str) -> bool:
    """Chinese and Japanese, which have no spaces between words."""
    return unicodedata.east_asian_width(character) in ("W", "F") and not (
        "\uac00" <= character <= "\ud7a3"  # Korean has
    )
