"""The times that the server waits for clients."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The times that the server waits for clients, in seconds."""

    start: float = 10.0
    """For the head of a request, and for the command that opens a session."""
    send: float = 30.0
    """With each frame, for a client that reads nothing."""
    body: float = 30.0
    """For the next piece of a request's body."""
    idle: float = 15.0
    """For the next request on an HTTP connection."""
    close: float = 5.0
    """For the other end to close the connection, too."""
