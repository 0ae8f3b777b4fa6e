"""Address of a server, and the meaning of its failures."""

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
"""A server that is busy with our audio sees a ping after what was sent before it."""

_SEND_BUFFER: Final = 1 << 16
"""Bytes that the kernel takes in advance. With much more, pings and pongs are late, and the caller
of `AudioSession.send` waits for the kernel and not for the server."""

_TRANSIENT: Final = frozenset(
    {
        RefusalCode.INTERNAL,
        RefusalCode.OVERLOADED,
        RefusalCode.SESSION_BUSY,  # the server has not noticed yet that the old connection is lost
        RefusalCode.TOO_SLOW,
    }
)
"""Refusals that a later attempt may not meet."""

_LASTING: Final = frozenset({1002, 1003, 1007, 1008, 1009, 1010})
"""Close codes that a later attempt would meet again."""


class Address:
    """Address of a server, and the token for it."""

    def __init__(self, url: str, token: str | None) -> None:
        """Check an address.

        Args:
            url: `ws://`, `wss://` or `unix:///path`.
            token: printable ASCII; None for none.

        Raises:
            ConfigError: the URL or the token cannot be right.
        """
        self.name = url
        is_socket = url.startswith(_SOCKET_PREFIX)
        self._socket = url.removeprefix(_SOCKET_PREFIX) if is_socket else None
        self._url = "ws://localhost" if is_socket else _without_path(url)
        self._token = token
        try:
            is_wrong = bool(parse_uri(self._url).query) or self._socket == ""
        except (InvalidURI, ValueError):
            is_wrong = True
        if is_wrong:
            raise ConfigError(
                f"{url!r} is not the address of a server; an example is {DEFAULT_URL}",
                code="bad_address",
            )
        if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ConfigError(
                "a token consists of printable ASCII characters without spaces", code="bad_token"
            )

    async def open(self, path: str, timeout_s: float) -> ClientConnection:
        """Connect.

        Raises:
            OSError: no server is there, or it does not answer in time.
            WebSocketException: the server refuses the connection.
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
        else:  # never through a proxy: audio goes only where the caller says
            connection = await tcp_connect(url, proxy=None, **options)
        end: socket.socket = connection.transport.get_extra_info("socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        return connection


def _without_path(url: str) -> str:
    """Return a URL without one of our paths, which people may have given."""
    return url.removesuffix(v1.STREAM_PATH).removesuffix(v1.EVENTS_PATH).rstrip("/")


def reason_to_retry(error: OSError | WebSocketException | ProtocolError, name: str) -> str:
    """Describe in one sentence why a connection ended.

    Args:
        error: that ended it.
        name: of the server.

    Raises:
        ProtocolError: another attempt would fail for the same reason.
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
            return f"the program at {name} is not a streamasr server: {error}"
        case TimeoutError():
            return f"the server at {name} does not answer"
        case OSError():
            return f"there is no server at {name}: {_reason(error)}"


def _refused_status(name: str, status: int) -> str:
    match status:
        case 401:
            return f"the server at {name} needs a token, or does not know this one"
        case 403:
            return f"the server at {name} does not allow this program to connect"
        case 404:
            return f"the server at {name} does not speak this protocol"
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
    """Return the system's reason, without the addresses that asyncio adds to it."""
    if isinstance(error, ConnectionError | FileNotFoundError | PermissionError) and error.errno:
        return os.strerror(error.errno)
    if str(error).startswith("Multiple exceptions"):
        return "none of its addresses answers"
    return error.strerror or str(error)
