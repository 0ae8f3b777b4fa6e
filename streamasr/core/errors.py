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
"""


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
