"""Values that the journal stores as JSON: messages, options of a session, its stable text.

The names in these documents are part of the file format: a class that renames a field gets a
document of its own here. A field that a document lacks has its default, so that documents of
earlier versions stay valid.
"""

from typing import Final as Constant

import msgspec

from streamasr.core.errors import StorageError
from streamasr.core.hypothesis import StableText, TokenTimes
from streamasr.core.messages import AlignmentMethod, Durable, End, Final, Gap, Words
from streamasr.core.options import SessionOptions
from streamasr.core.punctuation import Mark
from streamasr.core.transcript import Word
from streamasr.core.units import Samples
from streamasr.storage.database import JournalOrderError


class _Word(msgspec.Struct, frozen=True):
    """Document of a `Word`."""

    text: str
    start: Samples
    end: Samples
    score: float | None
    """The confidence."""
    space_after: bool = True


class _Words(msgspec.Struct, frozen=True):
    """Document of the message `Words`."""

    segment: int
    words: tuple[_Word, ...]
    method: AlignmentMethod


class _StableText(msgspec.Struct, frozen=True):
    """Document of a `StableText`."""

    segment: int
    start: Samples
    text: str
    tokens: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    times: TokenTimes = ()
    marks: tuple[tuple[int, str], ...] = ()
    """Each with its place in the text."""
    n_decided: int | None = None
    forced: msgspec.UnsetType | tuple[int, ...] = msgspec.UNSET
    """The tokens, as version 1 called them; it kept neither their ends nor their times."""


_KINDS: Constant[dict[str, type[Final | _Words | Gap | End]]] = {
    "final": Final,
    "words": _Words,
    "gap": Gap,
    "end": End,
}


def encode_message(message: Durable) -> str:
    """Return the document of a message.

    Raises:
        JournalOrderError: a text contains half of a surrogate pair.
    """
    if not isinstance(message, Words):
        return _encode(message)
    words = tuple(
        _Word(word.text, word.start, word.end, word.confidence, word.space_after)
        for word in message.words
    )
    return _encode(_Words(message.segment, words, message.method))


def decode_message(kind: str, document: str) -> Durable:
    """Return the message of a document.

    Raises:
        StorageError: the document is damaged, or of an unknown kind.
    """
    try:
        message = msgspec.json.decode(document, type=_KINDS[kind])
    except (KeyError, msgspec.DecodeError) as error:
        raise StorageError(
            f"the journal contains a damaged message of kind {kind}.",
            code="journal_damaged_message",
        ) from error
    if not isinstance(message, _Words):
        return message
    words = (
        Word(word.text, word.start, word.end, word.score, word.space_after)
        for word in message.words
    )
    return Words(message.segment, tuple(words), message.method)


def encode_options(options: SessionOptions) -> str:
    """Return the document of a session's options.

    Raises:
        JournalOrderError: a text contains half of a surrogate pair.
    """
    return _encode(options)


def decode_options(name: str, document: str) -> SessionOptions:
    """Return the options of the session called `name`.

    Raises:
        StorageError: the document is damaged.
    """
    try:
        return msgspec.json.decode(document, type=SessionOptions)
    except msgspec.DecodeError as error:
        raise _damaged_session(name) from error


def encode_stable_text(stable: StableText) -> str:
    """Return the document of a stable text.

    Raises:
        JournalOrderError: the text contains half of a surrogate pair.
    """
    return _encode(
        _StableText(
            segment=stable.segment,
            start=stable.start,
            text=stable.text,
            tokens=stable.tokens,
            ends=stable.ends,
            times=stable.times,
            marks=tuple((mark.end, mark.text) for mark in stable.marks),
            n_decided=stable.n_decided,
        )
    )


def decode_stable_text(name: str, document: str) -> StableText:
    """Return the stable text of the session called `name`.

    Raises:
        StorageError: the document is damaged.
    """
    try:
        found = msgspec.json.decode(document, type=_StableText)
    except msgspec.DecodeError as error:
        raise _damaged_session(name) from error
    return StableText(
        segment=found.segment,
        start=found.start,
        text=found.text,
        tokens=found.forced or found.tokens,
        ends=found.ends,
        times=found.times,
        marks=tuple(Mark(end, text) for end, text in found.marks),
        n_decided=found.n_decided,
    )


def _encode(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError as error:
        raise JournalOrderError(
            f"the journal cannot store this text: {error}.", code="journal_invalid_text"
        ) from error


def _damaged_session(name: str) -> StorageError:
    return StorageError(
        f"the journal's record of session {name} is damaged.", code="journal_damaged_session"
    )
