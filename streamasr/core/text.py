"""Text that is safe to show on a terminal.

Error messages quote names from files and from the network, which may contain anything. The names
are stored unchanged and made harmless where they are shown.
"""

import unicodedata


def printable(text: str) -> str:
    """Return a sentence or a name as one line that is safe on a terminal.

    Replaced are characters that move the cursor or change the direction of reading, and bytes of a
    file name that are not text.
    """
    return "".join(letter if letter.isprintable() else _shown(letter) for letter in text)


def _shown(letter: str) -> str:
    if unicodedata.category(letter) == "Zs":  # the wide space of Chinese, and others
        return letter
    return " " if letter.isspace() else "\ufffd"
