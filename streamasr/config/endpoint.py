"""Where the daemon is found, and who may connect: other machines by a token alone."""

import re
import stat
from pathlib import Path
from typing import Final

from streamasr.config.sections import ServerConfig
from streamasr.core.errors import ConfigError


def check_access(server: ServerConfig) -> None:
    """Refuse to let other machines in without a token.

    Raises:
        ConfigError: they could come in.
    """
    if server.socket is None and server.token_file is None and not is_loopback(server.host):
        raise ConfigError(
            f"other machines could connect to {server.host!r}: set server.token_file, or listen on "
            "127.0.0.1."
        )


_WHEREVER: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to connect, not to listen


def daemon_url(server: ServerConfig) -> str:
    """Where a client on this machine finds the daemon.

    Raises:
        ConfigError: nobody can know that.
    """
    if server.socket is not None:
        return f"unix://{server.socket}"
    if server.port == 0:
        raise ConfigError("server.port is 0, any that is free: say with --url which one it is.")
    host = _WHEREVER.get(server.host, server.host)
    return f"ws://[{host}]:{server.port}" if ":" in host else f"ws://{host}:{server.port}"


def is_loopback(host: str) -> bool:
    """Is it certain that only this machine can reach this address?"""
    import ipaddress

    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """The token that clients must show.

    Raises:
        ConfigError: the file is not there, holds no token, or others can read it.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"the token file {path} is not a regular file.")
        if status.st_mode & 0o077:
            raise ConfigError(f"others can use the token file {path}: chmod 600 {path}")
        token = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"the token file {path} cannot be read: {error.strerror}.") from error
    if not re.fullmatch(rb"[!-~]{8,512}", token):
        raise ConfigError(
            f"the token file {path} must hold 8 to 512 printable ASCII characters without spaces."
        )
    return token.decode("ascii")
