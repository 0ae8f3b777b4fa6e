"""Telling the service manager: datagrams to the socket that `sd_notify(3)` describes.

Our own, since it is less than any package: `systemd-python` and `cysystemd` bind libsystemd and are
compiled; `sdnotify`, in Python, had its last release in 2017 and swallows every error.
"""

import logging
import os
import socket
from collections.abc import Mapping, MutableMapping
from typing import Final

logger = logging.getLogger(__name__)

_TIMEOUT_S: Final = 1.0
"""For a service manager that reads nothing; longer, and the daemon would stand still for it."""


def encode(fields: Mapping[str, str]) -> bytes:
    """A message: a line for each field. What would begin a new line becomes a space."""
    lines = (f"{name}={' '.join(value.split())}\n" for name, value in fields.items())
    return "".join(lines).encode(errors="replace")


class Notifier:
    """A way to the service manager; where there is none, nothing is said."""

    def __init__(self, address: str = "") -> None:
        """Prepare.

        Args:
            address: a path, or @ and a name without one; empty for none.
        """
        self._address = _native(address)
        self._socket: socket.socket | None = None
        if self._address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(_TIMEOUT_S)
        self._has_failed = False

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> "Notifier":
        """Of an environment, in which children do not find it any more."""
        return cls(environ.pop("NOTIFY_SOCKET", ""))

    @property
    def is_heard(self) -> bool:
        """Whether there is anybody to tell."""
        return self._socket is not None

    def tell(self, **fields: str) -> None:
        """Send a message. That it could not be sent is logged once, and no reason to stop."""
        if self._socket is None:
            return
        assert self._address is not None
        try:
            self._socket.sendto(encode(fields), self._address)
        except OSError as error:
            if not self._has_failed:
                logger.warning("the service manager cannot be told: %s", error.strerror or error)
            self._has_failed = True
        else:
            self._has_failed = False

    def close(self) -> None:
        """Say nothing more."""
        if self._socket:
            self._socket.close()
            self._socket = None


def _native(address: str) -> bytes | None:
    """As the kernel wants it; None for no address, and for those of virtual machines."""
    if address.startswith("@"):
        return b"\0" + os.fsencode(address[1:])
    if address.startswith("/"):
        return os.fsencode(address)
    if address:
        logger.warning("the service manager cannot be told: NOTIFY_SOCKET=%s is no path", address)
    return None
