"""Values that the journal stores as JSON: messages, options of a session, its stable text.

A field that a document lacks has its default: documents of earlier versions stay valid.
"""

from typing import Final as Constant

import msgspec

from streamasr.core.errors import StorageError
from streamasr.core.hypothesis import StableText
from streamasr.core.messages import Durable, End, Final, Gap, Words
from streamasr.core.options import SessionOptions
from streamasr.storage.database import JournalOrderError

_KINDS: Constant[dict[str, type[Durable]]] = {
    "final": Final,
    "words": Words,
    "gap": Gap,
    "end": End,
}


def encode(value: Durable | SessionOptions | StableText) -> str:
    """Return the document of a value.

    Raises:
        JournalOrderError: a text holds half of a surrogate pair.
    """
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError as error:
        raise JournalOrderError(
            f"the journal cannot store this text: {error}.", code="journal_invalid_text"
        ) from error


def decode_message(kind: str, body: str) -> Durable:
    """Return the message of a document.

    Raises:
        StorageError: the document is damaged, or of an unknown kind.
    """
    try:
        return msgspec.json.decode(body, type=_KINDS[kind])
    except (KeyError, msgspec.DecodeError) as error:
        raise StorageError(
            f"the journal contains a damaged message of kind {kind}.",
            code="journal_damaged_message",
        ) from error


def decode_options(name: str, document: str) -> SessionOptions:
    """Return the options of the session called `name`.

    Raises:
        StorageError: the document is damaged.
    """
    try:
        return msgspec.json.decode(document, type=SessionOptions)
    except msgspec.DecodeError as error:
        raise _damaged_session(name) from error


def decode_stable_text(name: str, document: str) -> StableText:
    """Return the stable text of the session called `name`.

    Raises:
        StorageError: the document is damaged.
    """
    try:
        return msgspec.json.decode(document, type=StableText)
    except msgspec.DecodeError as error:
        raise _damaged_session(name) from error


def _damaged_session(name: str) -> StorageError:
    return StorageError(
        f"the journal's record of session {name} is damaged.", code="journal_damaged_session"
    )
