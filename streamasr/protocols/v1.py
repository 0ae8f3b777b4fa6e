"""Version 1 of the wire: what clients and the daemon say to each other; pure.

Every message is a JSON object in a text frame, told apart by its `type`; audio goes in binary
frames. The names here are those of the wire, so they are read with their module, as `v1.Final`:
`streamasr.events` has its own, which count samples where these have seconds.

The two directions are read differently. The server refuses what it does not know, so that a
misspelt wish is not silently ignored. A client skips types and fields that it does not know, so
that a newer server does not break it.
"""

import enum
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from streamasr.core import messages
from streamasr.core.errors import ProtocolError
from streamasr.core.units import to_seconds

VERSION: typing.Final = 1
SUBPROTOCOL: typing.Final = "streamasr.v1"
STREAM_PATH: typing.Final = "/v1/stream"
EVENTS_PATH: typing.Final = "/v1/events"
DEFAULT_PORT: typing.Final = 8765
MICROPHONE: typing.Final = "microphone"
"""Name of the daemon's own session."""
LAGGING: typing.Final = "lagging"
"""Code of the warning that text comes late."""

MAX_CONTROL_BYTES: typing.Final = 64 * 1024
MAX_AUDIO_BYTES: typing.Final = 1024 * 1024
MAX_CONTEXT: typing.Final = 10_000  # code points
MAX_HOTWORDS: typing.Final = 1000
MAX_NAME: typing.Final = 100  # code points, of a hotword, a language, a session
MAX_NUMBER: typing.Final = 2**53 - 1  # what every JSON parser keeps exact

Encoding: TypeAlias = Literal["pcm_s16le", "pcm_f32le"]
SAMPLE_BYTES: typing.Final[Mapping[Encoding, int]] = {"pcm_s16le": 2, "pcm_f32le": 4}

_Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
_Text: TypeAlias = Annotated[str, Meta(max_length=MAX_CONTEXT)]
_Hotwords: TypeAlias = Annotated[tuple[_Name, ...], Meta(max_length=MAX_HOTWORDS)]
_Number: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
_Id: TypeAlias = (
    Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
    | Annotated[str, Meta(max_length=MAX_NAME)]
    | None
)


class _FromClient(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag=str.lower,
):
    """A message of a client; what it leaves out has its default."""


class Start(_FromClient, frozen=True, kw_only=True):
    """The first message: how the audio is encoded, and what is wanted of it."""

    encoding: Encoding = "pcm_s16le"
    sample_rate: Annotated[int, Meta(ge=8000, le=48_000)] = 16_000
    channels: Annotated[int, Meta(ge=1, le=8)] = 1
    """Interleaved; the server mixes them down."""
    language: _Name | None = None
    """None lets the model detect it."""
    context: _Text = ""
    hotwords: _Hotwords = ()
    partials: bool = True
    words: bool = True
    session: _Name | None = None
    """The session to resume; None begins one."""
    since: _Number | None = None
    """With `session` only: the last durable message that the client has."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return SAMPLE_BYTES[self.encoding] * self.channels


class Configure(_FromClient, frozen=True, kw_only=True):
    """New wishes from the next segment on; UNSET leaves one as it is."""

    language: _Name | UnsetType | None = UNSET
    context: _Text | UnsetType = UNSET
    hotwords: _Hotwords | UnsetType = UNSET
    partials: bool | UnsetType = UNSET
    words: bool | UnsetType = UNSET


class Flush(_FromClient, frozen=True, kw_only=True):
    """Finish the open segment now; the session goes on."""


class Stop(_FromClient, frozen=True, kw_only=True):
    """No more audio."""


class Ping(_FromClient, frozen=True, kw_only=True):
    """To be answered by `Pong`, in the order of the audio around it."""

    id: _Id = None


ClientMessage: TypeAlias = Start | Configure | Flush | Stop | Ping


class _FromServer(msgspec.Struct, frozen=True, kw_only=True, tag=str.lower):
    """A message of the server. Times are seconds from the session's first sample."""


class Ready(_FromServer, frozen=True, kw_only=True):
    """The session is open, and every durable message up to `seq` has been sent."""

    session: str
    model: str
    seq: int
    """The last durable message; 0 before the first."""
    next_sample: int
    """The first sample that the server still lacks, counted at `sample_rate`."""
    sample_rate: int = 16_000
    """Of the session's clock, whatever the client sends."""
    protocol: int = VERSION


class Speech(_FromServer, frozen=True, kw_only=True):
    """Speech began."""

    segment: int
    start: float


class Partial(_FromServer, frozen=True, kw_only=True):
    """The text of an open segment so far."""

    segment: int
    text: str
    stable: int
    """How many code points of `text` begin every later partial and the final."""
    start: float
    end: float
    language: str | None


class Final(_FromServer, frozen=True, kw_only=True):
    """The text of a segment, for good; empty where the model heard no speech."""

    seq: int
    segment: int
    text: str
    language: str | None
    start: float
    end: float
    reason: str
    """`silence`, `length`, `flush` or `stop`."""


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """One word of `Words`, with the punctuation that belongs to it."""

    text: str
    start: float
    end: float
    score: float | None
    """How sure its times are, 0..1; None where they were only spread."""


class Words(_FromServer, frozen=True, kw_only=True):
    """The words of a segment, after its final."""

    seq: int
    segment: int
    words: tuple[Word, ...]
    method: str
    """`aligned`, `ctc`, `cif` or `spread`."""


class Gap(_FromServer, frozen=True, kw_only=True):
    """Audio that no final covers, and why."""

    seq: int
    start: float
    end: float
    reason: str


class Warning(_FromServer, frozen=True, kw_only=True):  # noqa: A001 - its name on the wire
    """Something to know about; the session goes on."""

    code: str
    message: str
    lag: float
    """Seconds of audio that were received and are not decoded yet."""


class Error(_FromServer, frozen=True, kw_only=True):
    """Why the server is about to close the connection."""

    code: str
    """One of `ErrorCode`, or of a newer server's."""
    message: str


class Pong(_FromServer, frozen=True, kw_only=True):
    """The answer to a `Ping`."""

    id: int | str | None


class End(_FromServer, frozen=True, kw_only=True):
    """Nothing more comes."""

    seq: int
    duration: float
    segments: int
    words: int


Durable: TypeAlias = Final | Words | Gap | End
"""Messages that have a number, are kept, and can be sent again."""

ServerMessage: TypeAlias = Ready | Speech | Partial | Durable | Warning | Error | Pong


class ErrorCode(enum.StrEnum):
    """Why a connection is refused or closed, for programs; `Error.message` says it for people."""

    BAD_JSON = "bad_json"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_FIELD = "unknown_field"
    BAD_VALUE = "bad_value"
    OUT_OF_ORDER = "out_of_order"
    """A message at a time when the protocol has no place for it: audio before `start`."""
    UNKNOWN_SESSION = "unknown_session"
    SESSION_BUSY = "session_busy"
    """Another connection sends audio to this session."""
    POLICY = "policy"
    BAD_AUDIO = "bad_audio"
    TOO_BIG = "too_big"
    OVERLOADED = "overloaded"
    """No room for another session now."""
    TOO_SLOW = "too_slow"
    """This client does not read its messages."""
    INTERNAL = "internal"


CLOSE_CODES: typing.Final[Mapping[str, int]] = {
    ErrorCode.BAD_AUDIO: 1003,
    ErrorCode.BAD_JSON: 1007,
    ErrorCode.UNKNOWN_TYPE: 1008,
    ErrorCode.UNKNOWN_FIELD: 1008,
    ErrorCode.BAD_VALUE: 1008,
    ErrorCode.OUT_OF_ORDER: 1008,
    ErrorCode.UNKNOWN_SESSION: 1008,
    ErrorCode.SESSION_BUSY: 1008,
    ErrorCode.POLICY: 1008,
    ErrorCode.TOO_BIG: 1009,
    ErrorCode.INTERNAL: 1011,
    ErrorCode.OVERLOADED: 1013,
    ErrorCode.TOO_SLOW: 1013,
}
"""The WebSocket close code that follows an `Error`."""


class RefusalError(ProtocolError):
    """The server does not go on with this connection; on either side of it."""

    def __init__(self, code: str, message: str) -> None:
        """Say why.

        Args:
            code: one of `ErrorCode`, or of a newer server's.
            message: one sentence for people.
        """
        super().__init__(message)
        self.code = code

    @property
    def close_code(self) -> int:
        """The WebSocket close code."""
        return CLOSE_CODES.get(self.code, 1008)

    @property
    def message(self) -> Error:
        """What tells the client."""
        return Error(code=self.code, message=str(self))


class _Tag(msgspec.Struct):
    type: str | None = None


def _name(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag)


_CLIENT_FIELDS: typing.Final = {
    _name(kind): kind.__struct_fields__ for kind in typing.get_args(ClientMessage)
}
_SERVER_TYPES: typing.Final = frozenset(_name(kind) for kind in typing.get_args(ServerMessage))

_client_decoder: typing.Final = msgspec.json.Decoder[ClientMessage](ClientMessage)
_server_decoder: typing.Final = msgspec.json.Decoder[ServerMessage](ServerMessage)
_tag_decoder: typing.Final = msgspec.json.Decoder(_Tag)
_encoder: typing.Final = msgspec.json.Encoder()


def encode(message: ClientMessage | ServerMessage) -> str:
    """Turn a message into the text of its frame.

    Raises:
        RefusalError: a text in it is not Unicode.
    """
    try:
        return _encoder.encode(message).decode()
    except UnicodeEncodeError as error:
        sentence = f"a text of {_quote(_name(type(message)))} has half a surrogate pair"
        raise RefusalError(ErrorCode.BAD_VALUE, sentence) from error


def decode_client(text: str | bytes) -> ClientMessage:
    """Read a control message, as the server does.

    Raises:
        RefusalError: it is not what the protocol allows; which and why.
    """
    _check_size("a control message", text, MAX_CONTROL_BYTES)
    try:
        message: ClientMessage = _client_decoder.decode(text)
    except msgspec.ValidationError as error:
        raise _refusal(text, error) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _bad_json(error) from error
    if isinstance(message, Start) and message.since is not None and message.session is None:
        sentence = "'since' of 'start' needs the 'session' that it counts in"
        raise RefusalError(ErrorCode.BAD_VALUE, sentence)
    return message


def decode_server(text: str | bytes) -> ServerMessage | None:
    """Read a message of the server, as clients do.

    Returns:
        None for a type that this version does not know.

    Raises:
        ProtocolError: it is no message at all, or lacks what its type must have.
    """
    try:
        message: ServerMessage = _server_decoder.decode(text)
    except msgspec.ValidationError as error:
        tag = _tag(text)
        if tag is not None and tag not in _SERVER_TYPES:
            return None
        raise ProtocolError(f"the server sent a wrong message: {_shorten(str(error))}") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ProtocolError("the server sent a message that is not JSON") from error
    return message


def check_audio(frame: bytes) -> None:
    """Refuse a binary frame that is too large.

    Raises:
        RefusalError: it is.
    """
    _check_size("an audio frame", frame, MAX_AUDIO_BYTES)


def from_event(message: messages.Message, seq: int | None) -> ServerMessage:
    """Say on the wire what a session publishes.

    Args:
        message: times are samples.
        seq: the number of a durable message.
    """
    match message:
        case messages.Speech():
            return Speech(segment=message.segment, start=to_seconds(message.start))
        case messages.Partial():
            return Partial(
                segment=message.segment,
                text=message.text,
                stable=message.stable,
                start=to_seconds(message.start),
                end=to_seconds(message.end),
                language=message.language,
            )
    assert seq is not None, "a durable message has a number"
    return _durable(message, seq)


def _durable(message: messages.Durable, seq: int) -> Durable:
    match message:
        case messages.Final():
            return Final(
                seq=seq,
                segment=message.segment,
                text=message.text,
                language=message.language,
                start=to_seconds(message.start),
                end=to_seconds(message.end),
                reason=message.reason,
            )
        case messages.Words():
            words = _words(message)
            return Words(seq=seq, segment=message.segment, words=words, method=message.method)
        case messages.Gap(start=start, end=end, reason=reason):
            return Gap(seq=seq, start=to_seconds(start), end=to_seconds(end), reason=reason)
        case messages.End():
            return End(
                seq=seq,
                duration=to_seconds(message.duration),
                segments=message.segments,
                words=message.words,
            )


def _words(message: messages.Words) -> tuple[Word, ...]:
    return tuple(
        Word(
            text=word.text,
            start=to_seconds(word.start),
            end=to_seconds(word.end),
            score=None if word.score is None else round(word.score, 4),
        )
        for word in message.words
    )


def _check_size(what: str, frame: str | bytes, limit: int) -> None:
    size = len(frame)
    if isinstance(frame, str) and size <= limit:  # no character takes less than one byte
        size = len(frame.encode(errors="surrogatepass"))
    if size > limit:
        sentence = f"{what} of {size} bytes is too big; at most {limit} are taken"
        raise RefusalError(ErrorCode.TOO_BIG, sentence)


def _tag(text: str | bytes) -> str | None:
    """The type of a message that could not be read whole; None if it has none."""
    try:
        return _tag_decoder.decode(text).type
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


_UNKNOWN_FIELD: typing.Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_PLACED: typing.Final = re.compile(r"(.*) - at `\$\.(.*)`", re.DOTALL)


def _refusal(text: str | bytes, error: msgspec.ValidationError) -> RefusalError:
    """Say in our words what msgspec found in a JSON value that is no message."""
    reason, tag = str(error), _tag(text)
    if unknown := _UNKNOWN_FIELD.fullmatch(reason):
        return _unknown_field(tag, unknown[1])
    if tag is None:
        sentence = f"a control message is a JSON object with a 'type': {_list(_CLIENT_FIELDS)}"
        return RefusalError(ErrorCode.UNKNOWN_TYPE, sentence)
    if tag not in _CLIENT_FIELDS:
        sentence = f"there is no message type {_quote(tag)}; there are {_list(_CLIENT_FIELDS)}"
        return RefusalError(ErrorCode.UNKNOWN_TYPE, sentence)
    if placed := _PLACED.fullmatch(reason):
        why, field = placed.groups()
        sentence = f"{_quote(field)} of {_quote(tag)} is wrong: {_plain(why)}"
    else:
        sentence = f"{_quote(tag)} is wrong: {_plain(reason)}"
    return RefusalError(ErrorCode.BAD_VALUE, sentence)


def _unknown_field(tag: str | None, field: str) -> RefusalError:
    fields = _CLIENT_FIELDS.get(tag or "")
    sentence = f"{_quote(tag) if tag else 'a control message'} has no field {_quote(field)}"
    if fields is not None:
        sentence += f"; it has {_list(fields) or 'none'}"
    return RefusalError(ErrorCode.UNKNOWN_FIELD, sentence)


def _bad_json(error: Exception) -> RefusalError:
    if isinstance(error, RecursionError):
        why = "it is nested too deeply"
    elif isinstance(error, UnicodeError):
        why = "it is not UTF-8"
    else:
        why = _shorten(str(error))
    return RefusalError(ErrorCode.BAD_JSON, f"a control message is not JSON: {why}")


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _plain(reason: str) -> str:
    """A reason of msgspec as the end of a sentence."""
    if reason.startswith("Invalid enum value"):  # only `encoding` is one of a few
        reason += f"; there are {_list(SAMPLE_BYTES)}"
    return _shorten(reason[0].lower() + reason[1:].replace("`", ""))


def _quote(text: str) -> str:
    """What a stranger wrote, fit to stand in a sentence and in a log."""
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _shorten(text: str) -> str:
    return text if len(text) <= 120 else text[:119] + "…"
