"""Minimal edits of the text before the caret; pure.

Edits count grapheme clusters, because windows delete one of them at a time: `é` in any composition,
a flag, an emoji of a family.
"""

import unicodedata
from dataclasses import dataclass
from itertools import takewhile

import regex

_LINE_ENDS = regex.compile(r"\r\n|[\r\v\f\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Edit:
    """Deletion of characters before the caret, followed by text to type."""

    delete: int = 0
    """Number of grapheme clusters to delete."""
    text: str = ""

    def __bool__(self) -> bool:
        return bool(self.delete or self.text)


def graphemes(text: str) -> list[str]:
    """Divide a text into grapheme clusters, which users perceive as characters."""
    found: list[str] = regex.findall(r"\X", text)
    return found


def smallest_edit(old: str, new: str) -> Edit:
    """Return the edit from one text to another that keeps their common prefix."""
    before, after = graphemes(old), graphemes(new)
    n_same = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))
    )
    return Edit(len(before) - n_same, "".join(after[n_same:]))


def pieces(text: str, size: int) -> list[str]:
    """Divide a long text into pieces of `size` grapheme clusters."""
    whole = graphemes(text)
    return ["".join(whole[at : at + size]) for at in range(0, len(whole), size)]


def typeable(text: str) -> str:
    """Reduce a text to composed characters (NFC), line ends and tabs.

    A terminal or an editor would execute other control codes as commands.
    """
    text = _LINE_ENDS.sub("\n", unicodedata.normalize("NFC", text))
    return "".join(
        char for char in text if char in "\n\t" or unicodedata.category(char) not in _CONTROLS
    )


_CONTROLS = frozenset({"Cc", "Cs", "Cn"})
