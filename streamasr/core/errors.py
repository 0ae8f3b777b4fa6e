"""Errors that the program explains in one sentence, divided by the party at fault.

The class decides the reaction:

    StreamASRError
    ├── ConfigError     the operator asked for something impossible: one line, exit 78
    ├── ModelError      a model file is missing, broken or not supported: one line, exit 78
    ├── DownloadError   a model cannot be fetched: report it, continue with the next
    ├── AudioError      this input cannot be read: report it, continue with the next
    ├── OutputError     a result cannot be written: report it, continue with the next
    ├── WorkerError     a child process keeps dying: restarts were tried, the segment is lost
    ├── DecodeError     llama.cpp refused: this segment only
    ├── StorageError    the journal or the spool cannot be written: warn, continue to recognise
    └── ProtocolError   the other end of a connection broke the rules: report it, close

Each error carries a `code` for programs: a short name of the condition, which stays the same when
the sentence is reworded. Silence, empty text and dropped partials are outcomes, not exceptions.
"""

from typing import ClassVar


class StreamASRError(Exception):
    """Base of every error that the program explains in one sentence."""

    default_code: ClassVar[str] = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        """Describe what is wrong, and what to do about it.

        Args:
            message: one sentence for people.
            code: name of the condition for programs, in snake case; None for that of the class.
        """
        super().__init__(message)
        self.code = self.default_code if code is None else code


class ConfigError(StreamASRError):
    """The configuration or a combination of options cannot work."""

    default_code = "config"


class ModelError(StreamASRError):
    """A model file is missing, broken, of an unknown kind or not supported."""

    default_code = "model"


class DownloadError(StreamASRError):
    """A file cannot be fetched, or its content is not the expected one."""

    default_code = "download"


class AudioError(StreamASRError):
    """An audio source cannot be opened, read or understood."""

    default_code = "audio"


class OutputError(StreamASRError):
    """A result cannot be written."""

    default_code = "output"


class WorkerError(StreamASRError):
    """A child process died more often than it is restarted, or refused its work."""

    default_code = "worker"


class DecodeError(StreamASRError):
    """llama.cpp returned an error for one segment."""

    default_code = "decode"


class StorageError(StreamASRError):
    """The journal or the spool cannot be read or written."""

    default_code = "storage"


class ProtocolError(StreamASRError):
    """A client sent what the protocol does not allow, or a server answered so."""

    default_code = "protocol"
