"""A listening socket that the service manager opened before the daemon ran; see `sd_listen_fds(3)`.

Clients can connect from the moment the machine is up. The first one starts the daemon, which takes
the socket over. When the daemon stops, the socket stays open, and clients that connect wait in its
queue for the next daemon.
"""

import ipaddress
import os
import socket
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final

from streamasr.core.errors import ConfigError

FIRST: Final = 3
"""Number of the first descriptor that the service manager passes."""

NAME: Final = "streamasr"
"""Name of our descriptor, where the service manager passes several."""


@dataclass(frozen=True, slots=True, eq=False)
class Inherited:
    """A listening socket, opened by the service manager."""

    socket: socket.socket

    @property
    def host(self) -> str:
        """Address that it listens on; empty for a Unix socket."""
        return "" if self.socket.family == socket.AF_UNIX else str(self.socket.getsockname()[0])

    @property
    def is_local(self) -> bool:
        """True if only this machine can connect."""
        if self.socket.family == socket.AF_UNIX:
            return True
        address = ipaddress.ip_address(self.host.partition("%")[0])
        # A socket for both families maps its IPv4 addresses into IPv6.
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback

    def check_access(self, token: str | None) -> None:
        """Check that other machines cannot connect without a token.

        Raises:
            ConfigError: there is no token, and the socket is open to other machines.
        """
        if token is None and not self.is_local:
            raise ConfigError(
                f"other machines could connect to {self.host!r}, the socket that the service "
                "manager opened: set server.token_file, or ListenStream=127.0.0.1:8765.",
                code="socket_needs_token",
            )


def take_socket(environ: MutableMapping[str, str], pid: int) -> Inherited | None:
    """Take over the socket that the service manager has opened for this process.

    Args:
        environ: with the variables of `sd_listen_fds(3)`, which are removed, so that children do
            not find them.
        pid: of this process.

    Returns:
        None if there is nothing for this process.

    Raises:
        ConfigError: a descriptor is missing or not a listening socket, or several have our name.
    """
    receiver = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "")
    if receiver != str(pid) or not count.isdecimal() or int(count) == 0:
        return None
    descriptors = range(FIRST, FIRST + int(count))
    for descriptor in descriptors:
        _keep_from_children(descriptor)
    return Inherited(_listening(_choose(descriptors, names.split(":"))))


def _keep_from_children(descriptor: int) -> None:
    try:
        os.set_inheritable(descriptor, False)
    except OSError as error:
        raise ConfigError(
            f"descriptor {descriptor} is not open, though LISTEN_FDS counts it; the service manager"
            " must pass it.",
            code="socket_missing",
        ) from error


def _choose(descriptors: Sequence[int], names: Sequence[str]) -> int:
    """Return the only descriptor, or the only one with our name."""
    if len(descriptors) == 1:
        return descriptors[0]
    ours = [number for number, name in zip(descriptors, names, strict=False) if name == NAME]
    if len(ours) == 1:
        return ours[0]
    raise ConfigError(
        f"the service manager passed {len(descriptors)} sockets, {len(ours)} of them named "
        f"{NAME!r}; use one ListenStream=, or FileDescriptorName={NAME} once.",
        code="socket_ambiguous",
    )


def _listening(descriptor: int) -> socket.socket:
    try:
        found = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(
            f"descriptor {descriptor}, passed by the service manager, is not a socket; use"
            " ListenStream=.",
            code="socket_not_listening",
        ) from error
    families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    if found.family not in families or found.type != socket.SOCK_STREAM or not _listens(found):
        found.close()
        raise ConfigError(
            f"descriptor {descriptor}, passed by the service manager, is not a listening stream"
            " socket; use ListenStream= and Accept=no.",
            code="socket_not_listening",
        )
    return found


def _listens(found: socket.socket) -> bool:
    return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
