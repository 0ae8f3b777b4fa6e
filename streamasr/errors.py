"""What can go wrong, split by whose fault it is, since that decides the reaction; how it is said.

    StreamASRError
    ├── ConfigError     the operator asked for something that cannot be: one line, exit 78
    ├── ModelError      a model file is missing, broken or not supported: one line, exit 78
    ├── DownloadError   a model cannot be fetched: say so, go on with the next
    ├── AudioError      this input cannot be read: say so, go on with the next
    ├── OutputError     a result cannot be written: say so, go on with the next
    ├── WorkerError     a child process keeps dying: restart has been tried, the segment is lost
    ├── DecodeError     llama.cpp refused: this segment only
    ├── StorageError    journal or spool cannot be written: warn, and go on recognising
    └── ProtocolError   the other end of a connection broke the rules: say how, close it

Silence, empty text and dropped partials are outcomes, not exceptions.

Sentences quote names from files and from the web, which may hold anything. They are made harmless
where they are shown, by `printable`, and kept as they are until then.
"""

import logging
import unicodedata


class StreamASRError(Exception):
    """Base of every error that the program explains in one sentence."""


class ConfigError(StreamASRError):
    """The configuration or a combination of options cannot work."""


class ModelError(StreamASRError):
    """A model file is missing, broken, of an unknown kind or not supported."""


class DownloadError(StreamASRError):
    """A file cannot be fetched, or is not what it should be."""


class AudioError(StreamASRError):
    """An audio source cannot be opened, read or understood."""


class OutputError(StreamASRError):
    """A result cannot be written."""


class WorkerError(StreamASRError):
    """A child process died more often than it is restarted, or refused its work."""


class DecodeError(StreamASRError):
    """llama.cpp returned an error for one segment."""


class StorageError(StreamASRError):
    """The journal or the spool cannot be read or written."""


class ProtocolError(StreamASRError):
    """A client sent what the protocol does not allow, or a server answered so."""


def printable(text: str) -> str:
    """A sentence or a name as a terminal may get it: one line, and nothing that moves the cursor.

    Nor what turns the direction of reading, nor bytes of a file name that are no text.
    """
    return "".join(letter if letter.isprintable() else _shown(letter) for letter in text)


def _shown(letter: str) -> str:
    if unicodedata.category(letter) == "Zs":  # the wide space of Chinese, and others
        return letter
    return " " if letter.isspace() else "\ufffd"


class PrintableFormatter(logging.Formatter):
    """A log for a terminal: a line for each message, whatever it quotes."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line without a traceback."""
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """All of it; a traceback keeps its lines."""
        return "\n".join(map(printable, super().format(record).split("\n")))


def log_to_stderr(level: int) -> None:
    """Set up this process's log, as the program and its children have it."""
    stderr = logging.StreamHandler()
    stderr.setFormatter(PrintableFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[stderr])
