"""Version 1 of streamasr's own protocol, as a dialect of the server; pure."""

import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from msgspec import UNSET

from streamasr.core.audio_format import AudioFormat
from streamasr.core.messages import End, Final, Gap, Partial, Speech, Words
from streamasr.core.model_facts import ModelFacts
from streamasr.core.notices import Notice
from streamasr.core.outgoing import Outgoing, Refused, Reply, SessionOpened
from streamasr.core.refusal import RefusalCode, RefusalError
from streamasr.core.requested_options import OptionsChange, RequestedOptions
from streamasr.core.session_names import MICROPHONE
from streamasr.core.units import to_seconds
from streamasr.protocols import v1
from streamasr.protocols.dialect import (
    Audio,
    Close,
    Codec,
    Command,
    Configure,
    FinishSession,
    FlushSegment,
    FollowSession,
    Frame,
    OpenSession,
    RequestHead,
    ResponseHead,
    ResumeSession,
    Route,
    bearer_tokens,
)

CLOSE_CODES: typing.Final[Mapping[str, int]] = MappingProxyType(
    {
        RefusalCode.BAD_AUDIO: 1003,
        RefusalCode.BAD_JSON: 1007,
        RefusalCode.UNKNOWN_TYPE: 1008,
        RefusalCode.UNKNOWN_FIELD: 1008,
        RefusalCode.BAD_VALUE: 1008,
        RefusalCode.OUT_OF_ORDER: 1008,
        RefusalCode.UNKNOWN_SESSION: 1008,
        RefusalCode.SESSION_BUSY: 1008,
        RefusalCode.POLICY: 1008,
        RefusalCode.TOO_BIG: 1009,
        RefusalCode.INTERNAL: 1011,
        RefusalCode.OVERLOADED: 1013,
        RefusalCode.TOO_SLOW: 1013,
    }
)
"""The WebSocket close code that follows an `error`."""

_DEFAULTS: typing.Final = v1.Start()
_OPTIONS: typing.Final = v1.Configure.__struct_fields__


class V1Dialect:
    """The protocol of this project's own clients. See `Dialect`."""

    name: typing.Final = "v1"
    routes: typing.Final = (Route(v1.STREAM_PATH), Route(v1.EVENTS_PATH))
    max_frame_bytes: typing.Final = 2 * v1.MAX_AUDIO_BYTES
    """Smaller frames that are too big are read, and refused with a sentence that says so."""
    shares_frames: typing.Final = True
    can_resume: typing.Final = True

    def tokens(self, request: RequestHead) -> Iterator[str]:
        """See `Dialect.tokens`: a header, the subprotocols, or for events the query."""
        yield from bearer_tokens(request)
        for value in request.all("sec-websocket-protocol"):
            names = [name.strip() for name in value.split(",")]
            if "bearer" in names[:-1]:
                yield names[names.index("bearer") + 1]
        if request.path == v1.EVENTS_PATH:
            yield from request.query.get("token", [])

    def select_subprotocol(self, offered: Sequence[str]) -> str | None:
        """See `Dialect.select_subprotocol`; a client may also offer none."""
        return v1.SUBPROTOCOL if v1.SUBPROTOCOL in offered else None

    def codec(self, request: RequestHead, model: ModelFacts) -> Codec:
        """See `Dialect.codec`."""
        if request.path == v1.EVENTS_PATH:
            return EventsCodec(request, model)
        return StreamCodec(model)


class _V1Codec:
    """The part of a codec that both paths share."""

    def __init__(self, model: ModelFacts) -> None:
        self._model = model

    def encode(self, event: Outgoing, seq: int | None) -> list[Frame | ResponseHead]:
        """See `Codec.encode`."""
        return [v1.encode(self._message(event, seq))]

    def close_after(self, refusal: RefusalError) -> Close | None:
        """See `Codec.close_after`."""
        return Close(CLOSE_CODES.get(refusal.code, 1008), refusal.code)

    def close_after_end(self) -> Close | None:
        """See `Codec.close_after_end`."""
        return Close()

    def _message(self, event: Outgoing, seq: int | None) -> v1.ServerMessage:
        match event:
            case Speech() | Partial() | Final() | Words() | Gap() | End():
                return v1.from_event(event, seq)
            case Notice(code=code, message=message, lag=lag):
                return v1.Warning(code=code, message=message, lag=round(to_seconds(lag), 3))
            case SessionOpened():
                return v1.Ready(
                    session=event.session,
                    model=self._model.name,
                    seq=event.seq,
                    next_sample=event.position,
                    family=self._model.family,
                    languages=self._model.languages,
                )
            case Refused(code=code, message=message):
                return v1.Error(code=code, message=message)
            case Reply(content=v1.Ping(id=number)):
                return v1.Pong(id=number)
        raise AssertionError(f"v1 has no message for {event}")


class StreamCodec(_V1Codec):
    """Codec of `/v1/stream`: audio in, events out. See `Codec`."""

    def __init__(self, model: ModelFacts) -> None:
        super().__init__(model)
        self._audio: AudioFormat | None = None  # None before `start`
        self._has_stopped = False

    def begin(self) -> Iterable[Command]:
        """See `Codec.begin`: everything is in the first message."""
        return ()

    def decode(self, frame: Frame | None) -> Iterator[Command]:
        """See `Codec.decode`."""
        if frame is None:
            yield FinishSession()
        elif isinstance(frame, str):
            yield from self._decode_control(v1.decode_client(frame))
        else:
            yield self._decode_audio(frame)

    def _decode_audio(self, frame: bytes) -> Command:
        if self._audio is None:
            raise _out_of_order("audio came before 'start', which says how it is encoded")
        v1.check_audio(frame)
        self._refuse_after_stop()
        return Audio(frame)

    def _decode_control(self, message: v1.ClientMessage) -> Iterator[Command]:
        if self._audio is None:
            if not isinstance(message, v1.Start):
                raise _out_of_order("the first message must be 'start'")
            yield self._open(message)
            return
        match message:
            case v1.Ping():
                yield Reply(message)
                return
            case v1.Start():
                raise _out_of_order("'start' was sent twice; 'configure' changes a running session")
        self._refuse_after_stop()
        match message:
            case v1.Stop():
                self._has_stopped = True
                yield FinishSession()
            case v1.Flush():
                yield FlushSegment()
            case v1.Configure():
                yield Configure(_changed(message))

    def _open(self, start: v1.Start) -> Command:
        self._audio = AudioFormat(start.encoding, start.sample_rate, start.channels)
        change = _requested(start)
        if start.session is None:
            return OpenSession(self._audio, RequestedOptions().changed(change))
        return ResumeSession(start.session, start.since or 0, self._audio, change)

    def _refuse_after_stop(self) -> None:
        if self._has_stopped:
            raise _out_of_order("only 'ping' may follow 'stop'")


class EventsCodec(_V1Codec):
    """Codec of `/v1/events`: the events of a session, read-only. See `Codec`."""

    def __init__(self, request: RequestHead, model: ModelFacts) -> None:
        super().__init__(model)
        self._query = request.query

    def begin(self) -> Iterable[Command]:
        """See `Codec.begin`: everything is in the query."""
        names, since = self._query.get("session", []), self._query.get("since", [])
        if len(names) != 1 or len(since) > 1:
            sentence = f"{v1.EVENTS_PATH} needs one session, as in ?session={MICROPHONE}"
            raise RefusalError(sentence, code=RefusalCode.BAD_VALUE)
        if since and not re.fullmatch("[0-9]{1,15}", since[0]):
            sentence = "'since' must be the number of a message, or 0 for all of them"
            raise RefusalError(sentence, code=RefusalCode.BAD_VALUE)
        return [FollowSession(names[0], int(since[0]) if since else None)]

    def decode(self, frame: Frame | None) -> Iterator[Command]:
        """See `Codec.decode`."""
        message = v1.decode_client(frame) if isinstance(frame, str) else None
        if not isinstance(message, v1.Ping):
            raise _out_of_order(f"{v1.EVENTS_PATH} is read-only; send to {v1.STREAM_PATH}")
        yield Reply(message)


def _requested(start: v1.Start) -> OptionsChange:
    """Return the options that a `start` gives; one that resumes leaves the others as they were."""
    values = {name: getattr(start, name) for name in _OPTIONS}
    return _as_options({n: v for n, v in values.items() if v != getattr(_DEFAULTS, n)})


def _changed(configure: v1.Configure) -> OptionsChange:
    """Return the options that a `configure` gives."""
    values = {name: getattr(configure, name) for name in _OPTIONS}
    return _as_options({name: value for name, value in values.items() if value is not UNSET})


def _as_options(given: dict[str, Any]) -> OptionsChange:
    if given.get("channel") == "mix":
        given["channel"] = None
    return cast("OptionsChange", given)


def _out_of_order(sentence: str) -> RefusalError:
    return RefusalError(sentence, code=RefusalCode.OUT_OF_ORDER)
