"""Logging to stderr, set up the same way in the main process and in each child."""

import logging

from streamasr.core.text import printable


class PrintableFormatter(logging.Formatter):
    """Formatter for a terminal: one line for each message, whatever it quotes."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line without a traceback."""
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """Return the whole record; a traceback keeps its lines."""
        return "\n".join(map(printable, super().format(record).split("\n")))


def log_to_stderr(level: int) -> None:
    """Set up the log of this process; main process and children call it alike."""
    stderr = logging.StreamHandler()
    stderr.setFormatter(PrintableFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[stderr])
