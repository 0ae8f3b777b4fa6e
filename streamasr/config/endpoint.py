"""Address of the daemon, and the token that clients on other machines need."""

import re
import stat
from pathlib import Path
from typing import Final

from streamasr.config.sections import ServerConfig
from streamasr.core.errors import ConfigError


def check_access(server: ServerConfig) -> None:
    """Refuse an address that other machines can reach without a token.

    Raises:
        ConfigError: other machines could connect without a token.
    """
    if server.socket is None and server.token_file is None and not is_loopback(server.host):
        raise ConfigError(
            f"other machines could connect to {server.host!r}: set server.token_file, or listen on "
            "127.0.0.1.",
            code="token_required",
        )


_WHEREVER: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to connect, not to listen


def daemon_url(server: ServerConfig) -> str:
    """Return the address of the daemon for clients on this machine.

    Raises:
        ConfigError: the settings name no fixed port.
    """
    if server.socket is not None:
        return f"unix://{server.socket}"
    if server.port == 0:
        raise ConfigError(
            "server.port is 0, any free port: give the address with --url.", code="port_not_fixed"
        )
    host = _WHEREVER.get(server.host, server.host)
    return f"ws://[{host}]:{server.port}" if ":" in host else f"ws://{host}:{server.port}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address, for certain."""
    import ipaddress

    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """Return the token that clients must present.

    Raises:
        ConfigError: the file is missing, holds no token, or can be read by others.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(
                f"the token file {path} is not a regular file.", code="token_not_a_file"
            )
        if status.st_mode & 0o077:
            raise ConfigError(
                f"other users can access the token file {path}; run `chmod 600 {path}`.",
                code="token_not_private",
            )
        token = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"the token file {path} cannot be read: {error.strerror}.", code="token_unreadable"
        ) from error
    if not re.fullmatch(rb"[!-~]{8,512}", token):
        raise ConfigError(
            f"the token file {path} must hold 8 to 512 printable ASCII characters without spaces.",
            code="token_malformed",
        )
    return token.decode("ascii")
