"""A listening socket that the service manager opened before the daemon ran; see `sd_listen_fds(3)`.

Clients can connect from the moment the machine is up. The first one starts the daemon, which takes
the socket over; when it stops the socket stays, and whoever connects meanwhile waits in its queue.
"""

import ipaddress
import os
import socket
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Final

from streamasr.core.errors import ConfigError

FIRST: Final = 3
"""Number of the first descriptor that is handed over."""

NAME: Final = "streamasr"
"""Of ours, where several are handed over."""


@dataclass(frozen=True, slots=True, eq=False)
class Inherited:
    """A socket that listens already."""

    socket: socket.socket

    @property
    def host(self) -> str:
        """The address that it listens on; empty for a Unix socket."""
        return "" if self.socket.family == socket.AF_UNIX else str(self.socket.getsockname()[0])

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.socket.family == socket.AF_UNIX:
            return True
        address = ipaddress.ip_address(self.host.partition("%")[0])
        # A socket for both families names its IPv4 addresses so.
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback

    def check_access(self, token: str | None) -> None:
        """Refuse to let other machines in without a token.

        Raises:
            ConfigError: they could come in.
        """
        if token is None and not self.is_local:
            raise ConfigError(
                f"other machines could connect to {self.host!r}, the socket that the service "
                "manager opened: set server.token_file, or ListenStream=127.0.0.1:8765."
            )


def take_socket(environ: MutableMapping[str, str], pid: int) -> Inherited | None:
    """Take over what is meant for this process.

    Args:
        environ: where it is written; children do not find it there any more.
        pid: of this process.

    Returns:
        None where nothing is meant for it.

    Raises:
        ConfigError: what it was given is no socket that listens.
    """
    for_whom = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "")
    if for_whom != str(pid) or not count.isdecimal() or int(count) == 0:
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
            f"the service manager handed over no descriptor {descriptor}: LISTEN_FDS is wrong."
        ) from error


def _choose(descriptors: Sequence[int], names: Sequence[str]) -> int:
    """The one that is there, or the one with our name."""
    if len(descriptors) == 1:
        return descriptors[0]
    ours = [number for number, name in zip(descriptors, names, strict=False) if name == NAME]
    if len(ours) == 1:
        return ours[0]
    raise ConfigError(
        f"the service manager handed over {len(descriptors)} sockets, {len(ours)} of them named "
        f"{NAME!r}: one is needed, so use one ListenStream=, or FileDescriptorName={NAME} once."
    )


def _listening(descriptor: int) -> socket.socket:
    try:
        found = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError("what the service manager handed over is no socket.") from error
    families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    if found.family not in families or found.type != socket.SOCK_STREAM or not _listens(found):
        found.close()
        raise ConfigError(
            "the socket that the service manager handed over takes no connections: it needs "
            "ListenStream= and Accept=no."
        )
    return found


def _listens(found: socket.socket) -> bool:
    return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
