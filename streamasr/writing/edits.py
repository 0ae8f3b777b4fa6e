"""Changes to the text before the caret, as small as can be; pure.

They count what people see as one character, because that is what windows delete at a time: `é`
however it is composed, a flag, a family of emoji.
"""

import unicodedata
from dataclasses import dataclass
from itertools import takewhile

import regex

_LINE_ENDS = regex.compile(r"\r\n|[\r\v\f\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Edit:
    """Take characters away before the caret, then type."""

    delete: int = 0
    """Characters as people count them."""
    text: str = ""

    def __bool__(self) -> bool:
        return bool(self.delete or self.text)


def graphemes(text: str) -> list[str]:
    """What people count as characters."""
    found: list[str] = regex.findall(r"\X", text)
    return found


def smallest_edit(old: str, new: str) -> Edit:
    """How to get from one text to another: what both begin with stays."""
    was, will = graphemes(old), graphemes(new)
    n_same = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(was, will, strict=False))
    )
    return Edit(len(was) - n_same, "".join(will[n_same:]))


def pieces(text: str, size: int) -> list[str]:
    """Cut a long text into pieces of `size` characters, none of them through a character."""
    whole = graphemes(text)
    return ["".join(whole[at : at + size]) for at in range(0, len(whole), size)]


def typeable(text: str) -> str:
    """What may reach a window: text in its composed form, line ends and tabs.

    A terminal or an editor would take other control codes for orders.
    """
    text = _LINE_ENDS.sub("\n", unicodedata.normalize("NFC", text))
    return "".join(
        one for one in text if one in "\n\t" or unicodedata.category(one) not in _CONTROLS
    )


_CONTROLS = frozenset({"Cc", "Cs", "Cn"})
