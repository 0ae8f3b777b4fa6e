"""A toy dialect that proves the seam: JSON in lines, over TCP, in an HTTP body, or a WebSocket.

Client lines, in any order that makes sense:
    {"start": {"rate": 16000, "language": "en"}}   begin a session
    {"audio": "<base64 of 16-bit samples>"}
    {"rate": 8000}                                 the audio from here on has another rate
    {"set": {"language": "de"}}                    change options
    {"flush": true}   {"end": true}                finish the segment; finish the session
    {"echo": ANYTHING}                             answered in the order of the results
    {"quit": true}                                 close the connection
Server lines:
    {"open": NAME}  {"speech": N}  {"partial": TEXT}  {"final": TEXT}  {"words": [...]}
    {"gap": [S, E]}  {"echo": ANYTHING}  {"error": CODE}  {"end": SECONDS}

Errors do not end the connection, and several sessions may follow each other on it. The end of the
client's input ends the session, too. Nothing can be resumed.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from streamasr.core.audio_format import AudioFormat
from streamasr.core.messages import End, Gap, Partial, Speech, Words
from streamasr.core.messages import Final as FinalText
from streamasr.core.model_facts import ModelFacts
from streamasr.core.notices import Notice
from streamasr.core.outgoing import Outgoing, Refused, Reply, SessionOpened
from streamasr.core.refusal import RefusalCode, RefusalError
from streamasr.core.requested_options import RequestedOptions
from streamasr.core.units import to_seconds
from streamasr.protocols.dialect import (
    Audio,
    ChangeFormat,
    Close,
    Codec,
    Command,
    Configure,
    Disconnect,
    FinishSession,
    FlushSegment,
    Frame,
    OpenSession,
    RequestHead,
    ResponseHead,
    Route,
    bearer_tokens,
)

MAX_LINE: Final = 1 << 20
PATH: Final = "/lines"


class NdjsonDialect:
    """See `Dialect`."""

    name = "ndjson"
    routes: tuple[Route, ...] = (Route(PATH, "http", ("POST",), max_body_bytes=1 << 30),)
    max_frame_bytes = 1 << 20
    shares_frames = True
    can_resume = False

    def tokens(self, request: RequestHead) -> Iterable[str]:
        return bearer_tokens(request)

    def select_subprotocol(self, offered: object) -> str | None:
        return None

    def codec(self, request: RequestHead, model: ModelFacts) -> Codec:
        return NdjsonCodec(is_http=request.method == "POST")


class AnyPathDialect(NdjsonDialect):
    """The same on WebSockets of every path."""

    name = "ndjson-websocket"
    routes = (Route("*"),)


class NdjsonCodec:
    """See `Codec`."""

    def __init__(self, *, is_http: bool) -> None:
        self._is_http = is_http
        self._rest = b""
        self._is_open = False
        self._is_last = is_http  # session of this connection

    def begin(self) -> Iterable[Command]:
        return ()

    def decode(self, frame: Frame | None) -> Iterator[Command]:
        if frame is None:
            self._is_last = True
            yield FinishSession() if self._is_open else Disconnect()
            return
        data = frame.encode() if isinstance(frame, str) else frame
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield from self._decode_line(line)
        if len(self._rest) > MAX_LINE:
            self._rest = b""
            raise RefusalError("a line is too long", code=RefusalCode.TOO_BIG)

    def _decode_line(self, line: bytes) -> Iterator[Command]:
        try:
            [(kind, value)] = json.loads(line).items()
        except (ValueError, AttributeError):
            yield Reply({"error": "bad_json"})
            return
        match kind:
            case "start":
                self._is_open = True
                audio = AudioFormat(sample_rate=value.get("rate", 16_000))
                yield OpenSession(audio, RequestedOptions(language=value.get("language")))
            case "audio":
                yield Audio(base64.b64decode(value))
            case "rate":
                yield ChangeFormat(AudioFormat(sample_rate=value))
            case "set":
                yield Configure(value)
            case "flush":
                yield FlushSegment()
            case "end":
                yield FinishSession()
            case "echo":
                yield Reply({"echo": value})
            case "quit":
                yield Disconnect()
            case _:
                yield Reply({"error": "unknown_type"})

    def encode(self, event: Outgoing, seq: int | None) -> Iterator[Frame | ResponseHead]:
        if isinstance(event, SessionOpened) and self._is_http:
            yield ResponseHead(content_type="application/x-ndjson")
        yield json.dumps(self._line(event)) + "\n"
        if isinstance(event, End):
            self._is_open = False

    def _line(self, event: Outgoing) -> dict[str, Any]:
        match event:
            case Reply(content=dict(content)):
                return content
            case SessionOpened(session=name):
                return {"open": name}
            case Refused(code=code) | Notice(code=code):
                return {"error": code}
            case _:
                return self._result(event)

    def _result(self, event: Outgoing) -> dict[str, Any]:
        match event:
            case Speech(segment=segment):
                return {"speech": segment}
            case Partial(text=text):
                return {"partial": text}
            case FinalText(text=text):
                return {"final": text}
            case Words(words=words):
                return {"words": [word.text for word in words]}
            case Gap(start=start, end=end):
                return {"gap": [to_seconds(start), to_seconds(end)]}
            case End(duration=duration):
                return {"end": to_seconds(duration)}
        raise AssertionError(event)

    def close_after(self, refusal: RefusalError) -> Close | None:
        return Close() if refusal.code in (RefusalCode.TOO_SLOW, RefusalCode.INTERNAL) else None

    def close_after_end(self) -> Close | None:
        return Close() if self._is_last else None


class CountingDialect:
    """Counts the bytes of a request's body. See `Dialect`."""

    name = "counting"
    routes = (Route("/count", "http", ("POST", "PUT"), max_body_bytes=250_000_000),)
    max_frame_bytes = 1 << 20
    shares_frames = False
    can_resume = False

    def tokens(self, request: RequestHead) -> Iterable[str]:
        return bearer_tokens(request)

    def select_subprotocol(self, offered: object) -> str | None:
        return None

    def codec(self, request: RequestHead, model: ModelFacts) -> Codec:
        return CountingCodec()


class CountingCodec(NdjsonCodec):
    """See `Codec`."""

    def __init__(self) -> None:
        super().__init__(is_http=True)
        self._n_bytes = 0

    def decode(self, frame: Frame | None) -> Iterator[Command]:
        if frame is not None:
            self._n_bytes += len(frame)
            return
        yield Reply({"bytes": self._n_bytes})
        yield Disconnect()
