"""The part of the daemon that a connection uses; independent of any wire format."""

import asyncio
from typing import Protocol

from streamasr.core.model_facts import ModelFacts
from streamasr.core.requested_options import OptionsChange, RequestedOptions
from streamasr.core.units import Samples
from streamasr.host.live_session import LiveSession
from streamasr.host.registry import SessionRegistry


class SessionHost(Protocol):
    """Opens sessions for connections."""

    sessions: SessionRegistry
    is_ready: asyncio.Event
    """Set when the models are loaded; sessions can be opened from then on."""

    @property
    def max_lag(self) -> Samples:
        """Audio of a session that may wait for recognition."""

    @property
    def model(self) -> ModelFacts:
        """The model that recognises."""

    def begin(self, requested: RequestedOptions) -> LiveSession:
        """Begin a session.

        Raises:
            RefusalError: all sessions are taken.
            StreamASRError: an option cannot be fulfilled.
        """

    def configure(self, live: LiveSession, change: OptionsChange) -> None:
        """Change some options of a session.

        Raises:
            StreamASRError: an option cannot be fulfilled; nothing was changed.
        """
