"""Text that is safe to show on a terminal.

Error messages quote names from files and from the network, which may contain anything. The names
are kept as they are and made harmless where they are shown.
"""

import unicodedata


def printable(text: str) -> str:
    """A sentence or a name as a terminal may get it: one line, and nothing that moves the cursor.

    Nor what turns the direction of reading, nor bytes of a file name that are no text.
    """
    return "".join(letter if letter.isprintable() else _shown(letter) for letter in text)


def _shown(letter: str) -> str:
    if unicodedata.category(letter) == "Zs":  # the wide space of Chinese, and others
        return letter
    return " " if letter.isspace() else "\ufffd"
