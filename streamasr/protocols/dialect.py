"""The seam between wire formats and the server: what a dialect must provide. Pure.

A dialect is one wire format: the project's own, or that of another recogniser whose clients are to
work unchanged. It has no sockets, clocks or tasks. The server gives it frames and gets commands; it
gives it events and gets frames:

    client -> transport -> frame -> Codec.decode -> commands -> session
    client <- transport <- frame <- Codec.encode <- events   <- session

A *frame* is one message of a WebSocket, or a piece of any size of a byte stream (a TCP connection,
the body of an HTTP request), which the codec has to put together itself.

To add a dialect, write one module with a class for `Dialect` and one for `Codec`, and name it where
the server is made. Some patterns:

* A session that the URL describes: `Codec.begin` yields `OpenSession`. One that a message
  describes: `decode` does, when that message comes.
* An acknowledgement, or an answer that has to stand between two results: `decode` yields a `Reply`.
  It waits in the queue behind the results before it, and comes back to `encode`.
* One answer per message (lock-step): `encode` returns no frames for partials and finals but stores
  them, and `decode` yields a `Reply` for each message, at which `encode` returns what is stored.
* An error that does not end the connection: `close_after` returns None.
* Several sessions on one connection: `close_after_end` returns None.
"""

import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from streamasr.core.audio_format import AudioFormat
from streamasr.core.model_facts import ModelFacts
from streamasr.core.outgoing import Outgoing, Reply
from streamasr.core.refusal import RefusalError
from streamasr.core.requested_options import OptionsChange, RequestedOptions

# Requests.


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The head of an HTTP request, that of an upgrade to a WebSocket included."""

    method: str = ""
    """Upper case; empty for a connection that is not HTTP."""
    target: str = ""
    """Path and query, as they were sent."""
    headers: tuple[tuple[str, str], ...] = ()
    """Names in lower case, and values."""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, list[str]]:
        """The parameters of the target, decoded; those without a value are left out."""
        return urllib.parse.parse_qs(self.target.partition("?")[2])

    def all(self, name: str) -> list[str]:
        """Return the values of a header, given by its name in lower case."""
        return [value for key, value in self.headers if key == name]


def bearer_tokens(request: RequestHead) -> Iterator[str]:
    """Yield the tokens of `Authorization: Bearer` headers."""
    for value in request.all("authorization"):
        scheme, _, credentials = value.partition(" ")
        if scheme.lower() == "bearer":
            yield credentials.strip()


@dataclass(frozen=True, slots=True)
class Route:
    """A path that a dialect serves."""

    path: str
    """`*` stands for every path that nothing else serves."""
    transport: Literal["websocket", "http"] = "websocket"
    methods: tuple[str, ...] = ("GET",)
    """Of plain HTTP requests; a WebSocket is opened with GET."""
    max_body_bytes: int = 0
    """Of a request; larger ones are refused with 413. 0: requests have no body."""


# Frames.


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and headers of an HTTP response; on HTTP the first frame that a codec sends."""

    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    """Further ones, names in lower case."""


Frame: TypeAlias = str | bytes
"""A text or binary message of a WebSocket, or a piece of a byte stream (text is sent as UTF-8)."""


@dataclass(frozen=True, slots=True)
class Close:
    """Code and reason with which a WebSocket is closed; other transports are just closed."""

    code: int = 1000
    reason: str = ""


# Commands: what a client's frames ask the server to do.


@dataclass(frozen=True, slots=True)
class OpenSession:
    """Begin a session with this client's audio."""

    audio: AudioFormat
    options: RequestedOptions = RequestedOptions()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class ResumeSession:
    """Continue a session that lost its connection."""

    session: str
    since: int
    """The last durable message that the client has; later ones are sent again."""
    audio: AudioFormat
    change: OptionsChange
    """Options that differ from now on."""


@dataclass(frozen=True, slots=True)
class FollowSession:
    """Read a session without sending audio to it."""

    session: str
    since: int | None
    """As of `ResumeSession`; None for new messages only."""


@dataclass(frozen=True, slots=True)
class Audio:
    """The next bytes of audio; samples may be cut anywhere."""

    data: bytes


@dataclass(frozen=True, slots=True)
class ChangeFormat:
    """The audio from here on has another format."""

    audio: AudioFormat


@dataclass(frozen=True, slots=True)
class Configure:
    """Change options of the session."""

    change: OptionsChange


@dataclass(frozen=True, slots=True)
class FlushSegment:
    """Finish the open segment now; the session continues."""


@dataclass(frozen=True, slots=True)
class FinishSession:
    """No more audio comes: recognise the rest, then end the session."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the connection."""

    close: Close = Close()


Command: TypeAlias = (
    OpenSession
    | ResumeSession
    | FollowSession
    | Audio
    | ChangeFormat
    | Configure
    | FlushSegment
    | FinishSession
    | Reply
    | Disconnect
)


class Codec(Protocol):
    """The state of one connection in a dialect."""

    def begin(self) -> Iterable[Command]:
        """Return the commands that the request itself gives, before any frame.

        Raises:
            RefusalError: the request has a wrong parameter.
        """

    def decode(self, frame: Frame | None) -> Iterable[Command]:
        """Return the commands of a client's frame; they may be produced one after the other.

        Args:
            frame: None at the end of the client's input, where the transport has one that is not
                also the end of the connection: the end of a request's body, a half-closed socket.

        Raises:
            RefusalError: the frame is not what the dialect allows.
        """

    def encode(self, event: Outgoing, seq: int | None) -> Iterable[Frame | ResponseHead]:
        """Return the frames of an event; none for what the dialect does not show.

        Args:
            event: what a session publishes, or a `SessionOpened`, `Reply` or `Refused` of this
                connection.
            seq: the number of a durable message.
        """

    def close_after(self, refusal: RefusalError) -> Close | None:
        """Return how to close the connection after a refusal was sent; None to keep it open."""

    def close_after_end(self) -> Close | None:
        """Return how to close the connection after `End`; None to wait for another session."""


class Dialect(Protocol):
    """A wire format, the same for all its connections."""

    @property
    def name(self) -> str:
        """Name for logs and caches, unique among the dialects."""

    @property
    def routes(self) -> Sequence[Route]:
        """Paths that the dialect serves; empty for one that is not spoken over HTTP."""

    @property
    def max_frame_bytes(self) -> int:
        """Size of a WebSocket message above which the connection is closed before it is read."""

    @property
    def shares_frames(self) -> bool:
        """The frames of a session's event are the same for all connections of the dialect."""

    @property
    def can_resume(self) -> bool:
        """A client that lost its connection can continue its session on another one."""

    def tokens(self, request: RequestHead) -> Iterable[str]:
        """Return the tokens that a request shows, wherever the dialect's clients put them."""

    def select_subprotocol(self, offered: Sequence[str]) -> str | None:
        """Return one of the WebSocket subprotocols that a client offers, or None."""

    def codec(self, request: RequestHead, model: ModelFacts) -> Codec:
        """Return the codec of a new connection.

        Args:
            request: that the connection began with.
            model: the model that the server recognises with.
        """
