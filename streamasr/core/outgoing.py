"""Events that a session host hands to a connection, for the dialect to encode.

A session publishes messages and notices. The connection itself adds the rest, in the same queue, so
that a reply stands where it belongs between the messages.
"""

from dataclasses import dataclass
from typing import TypeAlias

from streamasr.core.messages import Message
from streamasr.core.notices import Notice
from streamasr.core.units import Samples


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """The connection reads the session from here on; what it missed was sent before."""

    session: str
    """Name of the session."""
    seq: int
    """Number of the last durable message; 0 before the first."""
    position: Samples
    """First sample that the session still lacks."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to something that this client sent, in the terms of its dialect."""

    content: object


@dataclass(frozen=True, slots=True)
class Refused:
    """A request was refused."""

    code: str
    """One of `streamasr.core.refusal.RefusalCode`."""
    message: str
    """One sentence for people."""


Outgoing: TypeAlias = Message | Notice | SessionOpened | Reply | Refused
