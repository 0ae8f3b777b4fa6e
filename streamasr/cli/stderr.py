"""Error messages of the command line."""

import sys

from streamasr.core.text import printable


def complain(error: Exception, about: str | None = None) -> None:
    """One sentence on stderr."""
    sentence = f"{about}: {error}" if about else str(error)
    print(f"streamasr: {printable(sentence)}", file=sys.stderr)
