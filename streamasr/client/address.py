"""Where a server is, and what its answers to a connection mean."""

import os
import re
import socket
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.asyncio.client import connect as tcp_connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidStatus,
    InvalidURI,
    WebSocketException,
)
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from streamasr.core.errors import ConfigError, ProtocolError
from streamasr.core.refusal import RefusalCode, RefusalError
from streamasr.protocols import v1

DEFAULT_URL: Final = f"ws://127.0.0.1:{v1.DEFAULT_PORT}"

_SOCKET_PREFIX: Final = "unix://"
_MAX_MESSAGE_BYTES: Final = 1 << 24  # far beyond the words of the longest segment
_CLOSE_TIMEOUT_S: Final = 2.0

_PONG_TIMEOUT_S: Final = 120.0
"""A server that is busy with our audio sees the ping after what was sent before it."""

_SEND_BUFFER: Final = 1 << 16
"""Bytes that the kernel takes in advance. Where much more is on its way, pings and pongs are late,
and `Stream.send` waits for the kernel and not for the server."""

_TRANSIENT: Final = frozenset(
    {
        RefusalCode.INTERNAL,
        RefusalCode.OVERLOADED,
        RefusalCode.SESSION_BUSY,  # the server has not noticed yet that the old connection is lost
        RefusalCode.TOO_SLOW,
    }
)
"""Refusals that may be over soon."""

_LASTING: Final = frozenset({1002, 1003, 1007, 1008, 1009, 1010})
"""Close codes of an end that will not take the same again."""


class Address:
    """Where it is and what opens its door."""

    def __init__(self, url: str, token: str | None) -> None:
        self.name = url
        is_socket = url.startswith(_SOCKET_PREFIX)
        self._socket = url.removeprefix(_SOCKET_PREFIX) if is_socket else None
        self._url = "ws://localhost" if is_socket else _without_path(url)
        self._token = token
        try:
            has_query = bool(parse_uri(self._url).query)
        except (InvalidURI, ValueError) as error:
            raise ConfigError(f"{url!r} is no address of a server, as {DEFAULT_URL} is") from error
        if has_query or self._socket == "":
            raise ConfigError(f"{url!r} is no address of a server, as {DEFAULT_URL} is")
        if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ConfigError("a token is made of printable ASCII characters without spaces")

    async def open(self, path: str, timeout_s: float) -> ClientConnection:
        """Connect.

        Raises:
            OSError: there is no server, or it does not answer in time.
            WebSocketException: it does not let us in.
        """
        options: dict[str, Any] = {
            "subprotocols": [Subprotocol(v1.SUBPROTOCOL)],
            "compression": None,
            "open_timeout": timeout_s,
            "close_timeout": _CLOSE_TIMEOUT_S,
            "ping_timeout": _PONG_TIMEOUT_S,
            "max_size": _MAX_MESSAGE_BYTES,
        }
        if self._token is not None:
            options["additional_headers"] = {"Authorization": f"Bearer {self._token}"}
        url = self._url + path
        if self._socket is not None:
            connection = await unix_connect(self._socket, url, **options)
        else:  # straight to where the caller said: what is spoken goes through no proxy
            connection = await tcp_connect(url, proxy=None, **options)
        end: socket.socket = connection.transport.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        return connection


def _without_path(url: str) -> str:
    """What our paths are appended to; people may have given one of them already."""
    return url.removesuffix(v1.STREAM_PATH).removesuffix(v1.EVENTS_PATH).rstrip("/")


def why_try_again(error: OSError | WebSocketException | ProtocolError, name: str) -> str:
    """Say in one sentence what happened to a connection.

    Args:
        error: what it ended with.
        name: of the server.

    Raises:
        ProtocolError: it would happen again.
    """
    match error:
        case RefusalError(code=code) if code in _TRANSIENT:
            return str(error)
        case ProtocolError():
            raise error
        case InvalidStatus(response=response):
            sentence = _refused_status(name, response.status_code)
            if response.status_code < 500:
                raise RefusalError(sentence, code=f"http_{response.status_code}") from error
            return sentence
        case ConnectionClosed():
            return _closed(error)
        case WebSocketException():
            return f"what answers at {name} is no server of ours: {error}"
        case TimeoutError():
            return f"the server at {name} does not answer"
        case OSError():
            return f"there is no server at {name}: {_reason(error)}"


def _refused_status(name: str, status: int) -> str:
    match status:
        case 401:
            return f"the server at {name} wants a token that it knows"
        case 403:
            return f"the server at {name} does not let this program in"
        case 404:
            return f"the server at {name} knows nothing of this protocol"
        case _:
            return f"the server at {name} refuses with HTTP status {status}"


def _closed(error: ConnectionClosed) -> str:
    close = error.sent if error.rcvd_then_sent is False else error.rcvd or error.sent
    if close is None:
        return "the connection to the server is lost"
    sentence = f"the connection was closed with code {close.code} {close.reason}".rstrip()
    if close.code in _LASTING:
        raise RefusalError(sentence, code=RefusalCode.POLICY) from error
    return sentence


def _reason(error: OSError) -> str:
    """What the system says, without the addresses that asyncio adds to it."""
    if isinstance(error, ConnectionError | FileNotFoundError | PermissionError) and error.errno:
        return os.strerror(error.errno)
    if str(error).startswith("Multiple exceptions"):
        return "none of its addresses answers"
    return error.strerror or str(error)
