"""Listening sockets: their limits, and the files of Unix sockets."""

import socket
from pathlib import Path
from typing import Final

from streamasr.core.errors import ConfigError

_RECEIVE_BUFFER: Final = 64 * 1024
"""Bytes that the kernel keeps for a connection that is not read."""

_GONE_AFTER_S: Final = 60.0
"""A machine that has not acknowledged what was sent for so long is gone."""


def set_limits(listening: socket.socket) -> None:
    """Set the limits of the connections, which inherit those of the listening socket."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    if listening.family != socket.AF_UNIX:
        gone_after_ms = round(_GONE_AFTER_S * 1000)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, gone_after_ms)


def bind_unix(path: Path) -> socket.socket:
    """Return a socket bound to a path, for its owner only.

    The socket that a daemon left behind when it died is replaced.

    Raises:
        ConfigError: another program listens there, or the path is not a socket.
        OSError: the system does not allow it.
    """
    _remove_stale(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(str(path))
        path.chmod(0o600)  # before `listen`, so before anyone can connect
    except BaseException:
        bound.close()
        raise
    return bound


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        if path.exists():
            raise ConfigError(
                f"{path} exists and is not a socket; remove it or choose another path.",
                code="not_a_socket",
            )
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
        else:
            raise ConfigError(
                f"another program already listens on {path}; stop it or choose another path.",
                code="socket_in_use",
            )
