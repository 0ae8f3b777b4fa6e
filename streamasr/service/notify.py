"""Messages to the service manager: datagrams to the socket that `sd_notify(3)` describes.

The protocol is shorter than any package for it: `systemd-python` and `cysystemd` bind libsystemd
and are compiled; `sdnotify`, in Python, had its last release in 2017 and swallows every error.
"""

import logging
import os
import socket
from collections.abc import Mapping, MutableMapping
from typing import Final

logger = logging.getLogger(__name__)

_TIMEOUT_S: Final = 1.0
"""Wait for a service manager that does not read; the daemon stands still meanwhile."""


def encode(fields: Mapping[str, str]) -> bytes:
    """Return a message with a line for each field; line breaks in values become spaces."""
    lines = (f"{name}={' '.join(value.split())}\n" for name, value in fields.items())
    return "".join(lines).encode(errors="replace")


class Notifier:
    """Sends messages to the service manager; does nothing without one."""

    def __init__(self, address: str = "") -> None:
        """Prepare.

        Args:
            address: a path, or @ and the name of an abstract socket; empty for none.
        """
        self._address = _native(address)
        self._socket: socket.socket | None = None
        if self._address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(_TIMEOUT_S)
        self._has_failed = False

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> "Notifier":
        """Take the address out of an environment, so that children do not find it."""
        return cls(environ.pop("NOTIFY_SOCKET", ""))

    @property
    def has_receiver(self) -> bool:
        """True if there is a service manager to send to."""
        return self._socket is not None

    def send(self, **fields: str) -> None:
        """Send a message; a failure is logged once, and ignored."""
        if self._socket is None:
            return
        assert self._address is not None
        try:
            self._socket.sendto(encode(fields), self._address)
        except OSError as error:
            if not self._has_failed:
                reason = error.strerror or error
                logger.warning("cannot send messages to the service manager: %s", reason)
            self._has_failed = True
        else:
            self._has_failed = False

    def close(self) -> None:
        """Close the socket; later messages are dropped."""
        if self._socket:
            self._socket.close()
            self._socket = None


def _native(address: str) -> bytes | None:
    """Return an address for the kernel; None for an empty one, or that of a virtual machine."""
    if address.startswith("@"):
        return b"\0" + os.fsencode(address[1:])
    if address.startswith("/"):
        return os.fsencode(address)
    if address:
        logger.warning(
            "cannot send messages to the service manager: NOTIFY_SOCKET=%s is not a path", address
        )
    return None
