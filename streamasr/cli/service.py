"""`streamasr service`: let systemd run the daemon, and dictation, for this user."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from streamasr.cli.arguments import add_config, add_verbose
from streamasr.cli.exit_codes import EXIT_INPUT_FAILED
from streamasr.core.errors import ConfigError

if TYPE_CHECKING:
    from streamasr.config.sections import ServerConfig, Settings
    from streamasr.service.units import Setting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions of the command and their arguments."""
    parser.description = "Let systemd run the daemon, and dictation, for this user."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    install = actions.add_parser(
        "install",
        help="write the units, start them",
        description="Write units for the systemd of this user, and start them, now and at each "
        "login.",
    )
    uninstall = actions.add_parser(
        "uninstall",
        help="stop and remove them",
        description="Stop the services that `install` has started, and remove their units.",
    )
    status = actions.add_parser(
        "status",
        help="show their state",
        description="Show for each unit whether it is installed, and its state.",
    )
    for each in (install, uninstall, status):
        add_verbose(each)
    add_config(install)
    install.add_argument(
        "--socket", action="store_true", help="start the daemon when the first client connects"
    )
    install.add_argument("--dictate", action="store_true", help="dictation too, on the desktop")
    for each in (install, uninstall):
        each.add_argument("--force", action="store_true", help="also units that were edited")


def run(options: argparse.Namespace) -> int:
    """Install or uninstall the units, or show their state; return the exit code.

    Raises:
        ConfigError: a service cannot run with the settings.
        OutputError: a file cannot be written, or a service not be started.
    """
    from streamasr.config.file import find_config, load_config
    from streamasr.service.installation import Installation
    from streamasr.service.systemctl import Systemctl, user_units
    from streamasr.service.units import DICTATE, SERVICE, SOCKET
    from streamasr.storage.lock import find_daemon

    installation = Installation(user_units(), Systemctl.find(), print)
    match options.action:
        case "install":
            config = load_config(find_config(options.config))
            units = [SERVICE, *[SOCKET] * options.socket, *[DICTATE] * options.dictate]
            setting = setting_of(config, options.config, by_socket=options.socket)
            installation.check_alone(find_daemon(config.storage.directory))
            is_good = installation.install(units, setting, replaces=options.force)
        case "uninstall":
            is_good = installation.uninstall(removes_edited=options.force)
        case _:
            is_good = installation.report()
    return 0 if is_good else EXIT_INPUT_FAILED


def setting_of(
    config: "Settings", config_file: Path | None, *, by_socket: bool = False
) -> "Setting":
    """Return the facts about the configuration that the units contain.

    Raises:
        ConfigError: a service cannot run with the configuration.
    """
    from streamasr.service.units import Setting

    return Setting(
        # -P: modules are not looked for in the working directory, which is the user's home.
        command=(sys.executable, "-P", "-m", "streamasr"),
        options=() if config_file is None else ("--config", str(config_file.absolute())),
        written=_written(config, by_socket=by_socket),
        place=place_of(config.server) if by_socket else "",
        by_socket=by_socket,
    )


def _written(config: "Settings", *, by_socket: bool) -> tuple[Path, ...]:
    """Return the directories that the daemon writes to."""
    places = (config.storage.directory, config.storage.models)
    path = config.server.socket
    if path is None or by_socket:  # systemd makes the socket
        return places
    if path.parent in (Path.home(), Path("/")):
        raise ConfigError(
            f"server.socket is {path}: the service would have to be allowed to write to all of "
            f"{path.parent}; choose a directory in it, or install the service with --socket.",
            code="socket_not_for_service",
        )
    for own in (Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - refused
        if path.is_relative_to(own):
            raise ConfigError(
                f"server.socket is {path}: the service has a {own} of its own, where clients do "
                "not find it; choose a place in your runtime directory, or install the service "
                "with --socket.",
                code="socket_not_for_service",
            )
    return (*places, path.parent)


def place_of(server: "ServerConfig") -> str:
    """Return the address that the socket listens on, as systemd writes it.

    Raises:
        ConfigError: the settings name no fixed address.
    """
    import ipaddress

    if server.socket is not None:
        return str(server.socket)
    if server.port == 0:
        raise ConfigError(
            "server.port is 0, any free port: clients would not find the service.",
            code="port_not_fixed",
        )
    host = "127.0.0.1" if server.host == "localhost" else server.host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError(
            f"server.host is {host!r}; systemd needs an IP address there.", code="host_not_address"
        ) from None
    return f"[{address}]:{server.port}" if address.version == 6 else f"{address}:{server.port}"
