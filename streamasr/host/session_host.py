"""What the connections need of the daemon."""

import asyncio
from typing import Protocol

from streamasr.core.units import Samples
from streamasr.host.live_session import LiveSession
from streamasr.host.registry import SessionRegistry
from streamasr.protocols import v1
from streamasr.server.access import Access


class SessionHost(Protocol):
    """Where sessions live."""

    sessions: SessionRegistry
    access: Access
    model: str
    max_lag: Samples
    """Audio of a session that may wait for recognition."""
    is_ready: asyncio.Event

    def begin(self, start: v1.Start) -> LiveSession:
        """Begin a session.

        Raises:
            RefusalError: there is no room.
            StreamASRError: a wish that cannot be fulfilled.
        """

    def configure(self, live: LiveSession, by: v1.Configure) -> None:
        """Change a session's wishes.

        Raises:
            StreamASRError: a wish that cannot be fulfilled; nothing has changed.
        """

    def metrics(self) -> tuple[bytes, str]:
        """The figures for Prometheus, and their content type."""
