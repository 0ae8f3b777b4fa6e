"""The seam between connections and the means that carry their frames.

A WebSocket, a TCP connection and an HTTP request with its response are transports. Another server,
for example one for ASGI, can provide its own.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from streamasr.protocols.dialect import Close, Frame, ResponseHead


class DisconnectedError(Exception):
    """The connection is closed, by either end, or was lost."""


class Transport(Protocol):
    """Carries frames between one client and one connection. Belongs to the event loop's thread."""

    @property
    def name(self) -> str:
        """Identifies the connection in logs."""

    @property
    def is_given_up(self) -> bool:
        """The connection was closed on purpose, and the client will hardly resume its session.

        False while it is open, and where it broke or was closed because of an error.
        """

    @property
    def has_left(self) -> bool:
        """The other end has closed the connection, even if not all that it sent has been read."""

    @property
    def start_timeout_s(self) -> float | None:
        """The longest wait for a frame before a session is open.

        None where `receive` has a limit of its own.
        """

    async def receive(self) -> Frame | None:
        """Wait for the next frame. Cancelling it loses nothing.

        As long as it is not called, the other end is held back once a few frames wait.

        Returns:
            None at the end of the client's input, where its end of the connection can be closed
            alone. After that a further call waits for the end of the connection.

        Raises:
            DisconnectedError: the connection is closed, and all frames were received.
        """

    async def send(self, frame: Frame | ResponseHead) -> None:
        """Send a frame; wait while the other end does not read.

        Raises:
            DisconnectedError: the connection is closed.
        """

    async def close(self, close: Close) -> None:
        """Close the connection in an orderly way, within the time that the transport allows."""

    def abort(self) -> None:
        """Close the connection at once."""

    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""

    async def probe(self) -> None:
        """Wait until the other end shows that it is there, if the transport has a way to ask.

        Raises:
            DisconnectedError: the connection is closed.
        """


async def wait_connected(transport: Transport, until: Coroutine[Any, Any, object]) -> None:
    """Wait for something, at most as long as the connection lasts.

    Raises:
        DisconnectedError: the connection was closed before.
    """
    waiting = asyncio.ensure_future(until)
    closing = asyncio.ensure_future(transport.wait_closed())
    try:
        await asyncio.wait((waiting, closing), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise DisconnectedError
        waiting.result()
    finally:
        waiting.cancel()
        closing.cancel()
