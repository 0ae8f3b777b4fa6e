"""Version 1 of streamasr's own protocol: the messages between clients and the daemon; pure.

Every message is a JSON object in a text frame, told apart by its `type`; audio goes in binary
frames. The names here are those of the wire, so they are used with their module, as `v1.Final`:
`streamasr.core.messages` has its own, which count samples where these have seconds.

The two directions are read differently. The server refuses types and fields that it does not know,
so that a misspelt option is not silently ignored. A client skips them, so that a newer server does
not break it. Codes of errors are those of `streamasr.core.refusal.RefusalCode`, codes of warnings
those of `streamasr.core.notices.NoticeCode`.
"""

import re
import typing
from collections.abc import Iterable
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from streamasr.core import messages
from streamasr.core.audio_format import MAX_CHANNELS, MAX_RATE, MIN_RATE, SAMPLE_BYTES, Encoding
from streamasr.core.errors import ProtocolError
from streamasr.core.refusal import RefusalCode, RefusalError
from streamasr.core.units import to_seconds

VERSION: typing.Final = 1
SUBPROTOCOL: typing.Final = "streamasr.v1"
STREAM_PATH: typing.Final = "/v1/stream"
EVENTS_PATH: typing.Final = "/v1/events"
DEFAULT_PORT: typing.Final = 8765

MAX_CONTROL_BYTES: typing.Final = 64 * 1024
MAX_AUDIO_BYTES: typing.Final = 1024 * 1024
MAX_CONTEXT: typing.Final = 10_000  # code points
MAX_HOTWORDS: typing.Final = 1000
"""The message that holds them is limited to `MAX_CONTROL_BYTES`, too."""
MAX_LANGUAGES: typing.Final = 100
MAX_NAME: typing.Final = 100  # code points, of a hotword, a language, a session
MAX_NUMBER: typing.Final = 2**53 - 1  # what every JSON parser keeps exact

_Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
_Text: TypeAlias = Annotated[str, Meta(max_length=MAX_CONTEXT)]
_Languages: TypeAlias = Annotated[tuple[_Name, ...], Meta(max_length=MAX_LANGUAGES)]
_Hotwords: TypeAlias = Annotated[tuple[_Name, ...], Meta(max_length=MAX_HOTWORDS)]
_Channel: TypeAlias = Annotated[int, Meta(ge=0, lt=MAX_CHANNELS)] | Literal["mix"]
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
    """A message of a client; fields that are left out have their defaults."""


class Start(_FromClient, frozen=True, kw_only=True):
    """The first message: the encoding of the audio, and the options of the session."""

    encoding: Encoding = "pcm_s16le"
    sample_rate: Annotated[int, Meta(ge=MIN_RATE, le=MAX_RATE)] = 16_000
    channels: Annotated[int, Meta(ge=1, le=MAX_CHANNELS)] = 1
    """Interleaved."""
    channel: _Channel = "mix"
    """The channel to recognise, from 0; `mix` averages all of them."""
    language: _Name | None = None
    """The language to force, by name or BCP 47 tag; None lets the model detect it."""
    languages: _Languages = ()
    """The languages that the model may choose among; empty for all."""
    context: _Text = ""
    hotwords: _Hotwords = ()
    partials: bool = True
    words: bool = True
    session: _Name | None = None
    """The session to resume; None begins a new one."""
    since: _Number | None = None
    """With `session` only: the last durable message that the client has."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return SAMPLE_BYTES[self.encoding] * self.channels


class Configure(_FromClient, frozen=True, kw_only=True):
    """Options from the next segment on, and the channel from here on; UNSET changes nothing."""

    channel: _Channel | UnsetType = UNSET
    language: _Name | UnsetType | None = UNSET
    languages: _Languages | UnsetType = UNSET
    context: _Text | UnsetType = UNSET
    hotwords: _Hotwords | UnsetType = UNSET
    partials: bool | UnsetType = UNSET
    words: bool | UnsetType = UNSET


class Flush(_FromClient, frozen=True, kw_only=True):
    """Finish the open segment now; the session continues."""


class Stop(_FromClient, frozen=True, kw_only=True):
    """No more audio comes."""


class Ping(_FromClient, frozen=True, kw_only=True):
    """Ask for a `Pong`, which comes in the order of the audio around this message."""

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
    """Of the session's clock, not of the client's audio."""
    protocol: int = VERSION
    family: str = ""
    """Family of the model."""
    languages: tuple[str, ...] = ()
    """Names of the languages that the model knows."""


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
    """The text of a segment, which never changes; empty when the model heard no speech in it."""

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
    """Confidence in its times, 0..1; None where they were spread evenly."""


class Words(_FromServer, frozen=True, kw_only=True):
    """The words of a segment, after its final."""

    seq: int
    segment: int
    words: tuple[Word, ...]
    method: str
    """`aligned`, `ctc`, `cif` or `spread`."""


class Gap(_FromServer, frozen=True, kw_only=True):
    """Audio that no final covers, with the reason."""

    seq: int
    start: float
    end: float
    reason: str


class Warning(_FromServer, frozen=True, kw_only=True):  # noqa: A001 - its name on the wire
    """A notice; the session continues."""

    code: str
    """One of `NoticeCode`, or of a newer server's."""
    message: str
    lag: float
    """Seconds of received audio that are not decoded yet."""


class Error(_FromServer, frozen=True, kw_only=True):
    """The reason for which the server is about to close the connection."""

    code: str
    """One of `RefusalCode`, or of a newer server's."""
    message: str


class Pong(_FromServer, frozen=True, kw_only=True):
    """The answer to a `Ping`."""

    id: int | str | None


class End(_FromServer, frozen=True, kw_only=True):
    """The session is over; no message follows."""

    seq: int
    duration: float
    segments: int
    words: int


Durable: TypeAlias = Final | Words | Gap | End
"""Messages that have a number, are kept, and can be sent again."""

ServerMessage: TypeAlias = Ready | Speech | Partial | Durable | Warning | Error | Pong


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
    """Return the text of a message's frame.

    Raises:
        RefusalError: a string in the message is not valid Unicode (half a surrogate pair).
    """
    try:
        return _encoder.encode(message).decode()
    except UnicodeEncodeError as error:
        sentence = f"a string in {_quote(_name(type(message)))} has half a surrogate pair"
        raise RefusalError(sentence, code=RefusalCode.BAD_VALUE) from error


def decode_client(text: str | bytes) -> ClientMessage:
    """Read a control message, as the server does.

    Raises:
        RefusalError: the message is too big, not JSON, or not what the protocol allows.
    """
    _check_size("a control message", text, MAX_CONTROL_BYTES)
    try:
        message: ClientMessage = _client_decoder.decode(text)
    except msgspec.ValidationError as error:
        raise _refusal(text, error) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _bad_json(error) from error
    if isinstance(message, Start):
        _check_start(message)
    return message


def _check_start(start: Start) -> None:
    if start.since is not None and start.session is None:
        sentence = "'since' of 'start' needs the 'session' that it counts in"
        raise RefusalError(sentence, code=RefusalCode.BAD_VALUE)
    if start.channel != "mix" and start.channel >= start.channels:
        sentence = (
            f"'channel' of 'start' is {start.channel}, but the audio has {start.channels} "
            "channel(s), counted from 0"
        )
        raise RefusalError(sentence, code=RefusalCode.BAD_VALUE)


def decode_server(text: str | bytes) -> ServerMessage | None:
    """Read a message of the server, as clients do.

    Returns:
        None for a type that this version does not know.

    Raises:
        ProtocolError: the text is not JSON, or lacks a field that its type must have.
    """
    try:
        message: ServerMessage = _server_decoder.decode(text)
    except msgspec.ValidationError as error:
        tag = _tag(text)
        if tag is not None and tag not in _SERVER_TYPES:
            return None
        raise ProtocolError(
            f"the server sent a wrong message: {_shorten(str(error))}", code="bad_server_message"
        ) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ProtocolError(
            "the server sent a message that is not JSON", code="bad_server_json"
        ) from error
    return message


def check_audio(frame: bytes) -> None:
    """Check the size of a binary frame.

    Raises:
        RefusalError: the frame is larger than `MAX_AUDIO_BYTES`.
    """
    _check_size("an audio frame", frame, MAX_AUDIO_BYTES)


def from_event(message: messages.Message, seq: int | None) -> ServerMessage:
    """Return the wire's message for one that a session publishes.

    Args:
        message: its times are samples.
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
            score=None if word.confidence is None else round(word.confidence, 4),
        )
        for word in message.words
    )


def _check_size(what: str, frame: str | bytes, limit: int) -> None:
    size = len(frame)
    if isinstance(frame, str) and size <= limit:  # no character takes less than one byte
        size = len(frame.encode(errors="surrogatepass"))
    if size > limit:
        sentence = f"{what} of {size} bytes is too big; the limit is {limit} bytes"
        raise RefusalError(sentence, code=RefusalCode.TOO_BIG)


def _tag(text: str | bytes) -> str | None:
    """Return the type of a message that could not be read whole; None if it has none."""
    try:
        return _tag_decoder.decode(text).type
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


_UNKNOWN_FIELD: typing.Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_PLACED: typing.Final = re.compile(r"(.*) - at `\$\.(.*)`", re.DOTALL)


def _refusal(text: str | bytes, error: msgspec.ValidationError) -> RefusalError:
    """Describe what msgspec found in a JSON value that is not a control message."""
    reason, tag = str(error), _tag(text)
    if unknown := _UNKNOWN_FIELD.fullmatch(reason):
        return _unknown_field(tag, unknown[1])
    if tag is None:
        sentence = f"a control message is a JSON object with a 'type': {_list(_CLIENT_FIELDS)}"
        return RefusalError(sentence, code=RefusalCode.UNKNOWN_TYPE)
    if tag not in _CLIENT_FIELDS:
        sentence = f"unknown message type {_quote(tag)}; the types are {_list(_CLIENT_FIELDS)}"
        return RefusalError(sentence, code=RefusalCode.UNKNOWN_TYPE)
    if placed := _PLACED.fullmatch(reason):
        why, field = placed.groups()
        sentence = f"{_quote(field)} of {_quote(tag)} is wrong: {_plain(why, field)}"
    else:
        sentence = f"{_quote(tag)} is wrong: {_plain(reason)}"
    return RefusalError(sentence, code=RefusalCode.BAD_VALUE)


def _unknown_field(tag: str | None, field: str) -> RefusalError:
    fields = _CLIENT_FIELDS.get(tag or "")
    sentence = f"{_quote(tag) if tag else 'a control message'} has no field {_quote(field)}"
    if fields is not None:
        sentence += f"; its fields are {_list(fields)}" if fields else "; it has no fields"
    return RefusalError(sentence, code=RefusalCode.UNKNOWN_FIELD)


def _bad_json(error: Exception) -> RefusalError:
    if isinstance(error, RecursionError):
        why = "it is nested too deeply"
    elif isinstance(error, UnicodeError):
        why = "it is not UTF-8"
    else:
        why = _shorten(str(error))
    return RefusalError(f"a control message is not JSON: {why}", code=RefusalCode.BAD_JSON)


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


_CHOICES: typing.Final = {
    "encoding": _list(SAMPLE_BYTES),
    "channel": f"0 to {MAX_CHANNELS - 1}, or 'mix'",
}


def _plain(reason: str, field: str = "") -> str:
    """Return a reason of msgspec as the end of a sentence."""
    if field in _CHOICES:
        reason += f"; it must be one of {_CHOICES[field]}"
    return _shorten(reason[0].lower() + reason[1:].replace("`", ""))


def _quote(text: str) -> str:
    """Return foreign text in a form that fits into a sentence and a log."""
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _shorten(text: str) -> str:
    return text if len(text) <= 120 else text[:119] + "…"
