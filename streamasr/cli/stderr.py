"""Sentences on stderr: errors, warnings and notes."""

import sys

from streamasr.core.text import printable


def complain(error: Exception, about: str | None = None) -> None:
    """Print an error in one sentence."""
    note(f"{about}: {error}" if about else str(error))


def warn(sentence: str) -> None:
    """Print a warning in one sentence."""
    note(f"warning: {sentence}")


def note(sentence: str) -> None:
    """Print one sentence."""
    print(f"streamasr: {printable(sentence)}", file=sys.stderr, flush=True)
