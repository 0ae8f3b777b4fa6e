"""`streamasr service`: have systemd run the daemon, and dictation, for this user."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streamasr.cli.exit_codes import EXIT_INPUT_FAILED
from streamasr.config.file import find_config, load_config
from streamasr.config.sections import ServerConfig, Settings
from streamasr.core.errors import ConfigError, OutputError
from streamasr.service.systemctl import Systemctl, user_units
from streamasr.service.units import (
    DICTATE,
    SERVICE,
    SOCKET,
    UNITS,
    WITHOUT_NAMESPACES,
    Setting,
    UnitState,
    look,
    render,
    seal,
)
from streamasr.storage.lock import find_daemon


def run_service(options: argparse.Namespace) -> int:
    """Install, uninstall or look; the exit code.

    Raises:
        ConfigError: the settings cannot be those of a service.
        OutputError: a file cannot be written, or a service not be started.
    """
    desk = Installation(user_units(), Systemctl.find())
    match options.action:
        case "install":
            config = load_config(find_config(options.config))
            units = [SERVICE, *[SOCKET] * options.socket, *[DICTATE] * options.dictate]
            setting = setting_of(config, options.config, by_socket=options.socket)
            desk.check_alone(find_daemon(config.storage.directory))
            return desk.install(units, setting, replaces=options.force)
        case "uninstall":
            return desk.uninstall(removes_edited=options.force)
        case _:
            return desk.tell()


def setting_of(config: Settings, config_file: Path | None, *, by_socket: bool = False) -> Setting:
    """What the units have to know of the configuration.

    Raises:
        ConfigError: it cannot be that of a service.
    """
    return Setting(
        # -P: a directory in the user's home is no module that is looked for there.
        command=(sys.executable, "-P", "-m", "streamasr"),
        options=() if config_file is None else ("--config", str(config_file.absolute())),
        written=_written(config, by_socket=by_socket),
        place=place_of(config.server) if by_socket else "",
        by_socket=by_socket,
    )


def _written(config: Settings, *, by_socket: bool) -> tuple[Path, ...]:
    """The directories that the daemon writes to."""
    places = (config.storage.directory, config.storage.models)
    path = config.server.socket
    if path is None or by_socket:  # systemd makes it
        return places
    if path.parent in (Path.home(), Path("/")):
        raise ConfigError(
            f"server.socket is {path}: the service would have to be allowed to write to all of "
            f"{path.parent}; choose a directory in it, or install it with --socket."
        )
    for own in (Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - where nothing is to be
        if path.is_relative_to(own):
            raise ConfigError(
                f"server.socket is {path}: the service has a {own} of its own, where nobody finds "
                "it; choose a place in your runtime directory, or install it with --socket."
            )
    return (*places, path.parent)


def place_of(server: ServerConfig) -> str:
    """Where the socket listens, as systemd writes it.

    Raises:
        ConfigError: nowhere in particular.
    """
    import ipaddress

    if server.socket is not None:
        return str(server.socket)
    if server.port == 0:
        raise ConfigError("server.port is 0, any that is free: clients would not find the service.")
    host = "127.0.0.1" if server.host == "localhost" else server.host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError(f"server.host is {host!r}; systemd needs an address there.") from None
    return f"[{address}]:{server.port}" if address.version == 6 else f"{address}:{server.port}"


@dataclass(frozen=True, slots=True)
class Installation:
    """The units in a directory, and the manager that reads them there."""

    directory: Path
    systemctl: Systemctl | None

    def check_alone(self, process: int | None) -> None:
        """Refuse to start a service that would find its place taken.

        Args:
            process: of the daemon that runs; None where none does.

        Raises:
            OutputError: somebody has started one by hand.
        """
        if process is None or self.systemctl is None:
            return
        if self.systemctl.show(SERVICE).get("ActiveState") in (None, "", "inactive", "failed"):
            raise OutputError(
                f"process {process} is a daemon that was started by hand, and the service would "
                f"find its place taken: stop it (kill {process}), then install the service."
            )

    def install(self, units: Sequence[str], setting: Setting, *, replaces: bool) -> int:
        """Write units, and have them started; the exit code.

        Args:
            units: with the names of `units.UNITS`.
            setting: of this machine.
            replaces: also those that were edited, of which a copy stays.
        """
        wanted = {name: render(name, setting) for name in units}
        kept = [name for name in units if not self._write(name, wanted[name], replaces=replaces)]
        if self.systemctl is None:
            _say(
                "systemd does not run your services here. Where it does: systemctl --user enable "
                f"--now {' '.join(_started(units))}"
            )
            return EXIT_INPUT_FAILED if kept else 0
        self._allow_for_missing_namespaces(units)
        self.systemctl.do("daemon-reload")
        self._start(units)
        return EXIT_INPUT_FAILED if kept else 0

    def uninstall(self, *, removes_edited: bool) -> int:
        """Stop what is installed and remove it; the exit code."""
        there = [name for name in UNITS if (self.directory / name).exists()]
        if not there:
            _say("nothing is installed.")
            return 0
        if self.systemctl:
            # The socket first, or it would start the service again.
            self.systemctl.do("disable", "--now", *sorted(there, key=lambda name: name != SOCKET))
        kept = [name for name in there if not self._remove(name, removes_edited=removes_edited)]
        if self.systemctl:
            self.systemctl.do("daemon-reload")
        return EXIT_INPUT_FAILED if kept else 0

    def tell(self) -> int:
        """Say how everything is; 0 if the daemon runs, or waits for its first client."""
        is_up = False
        for name in UNITS:
            path = self.directory / name
            found = self._look(path)
            if found is UnitState.MISSING:
                _say(f"{name}: {found.value}")
                continue
            state = self.systemctl.show(name) if self.systemctl else {}
            active, enabled = state.get("ActiveState", ""), state.get("UnitFileState", "")
            facts = [found.value, enabled, active, state.get("StatusText", "")]
            _say(f"{name}: {', '.join(fact for fact in facts if fact)}")
            is_up |= name != DICTATE and active in ("active", "reloading")
        if self.systemctl is None:
            _say("systemd does not run your services here.")
        return 0 if is_up else EXIT_INPUT_FAILED

    def _look(self, path: Path) -> UnitState:
        """What lies there; of what somebody has installed it is enough that nobody edited it."""
        found = look(path, "")
        return UnitState.CURRENT if found is UnitState.OUTDATED else found

    def _write(self, name: str, text: str, *, replaces: bool) -> bool:
        """Write a unit; whether it is as it should be now."""
        path = self.directory / name
        found = look(path, text)
        if found is UnitState.CURRENT:
            _say(f"{path} is as it should be.")
            return True
        if found is UnitState.EDITED and not replaces:
            _say(
                f"{path} was edited and is left as it is; --force replaces it and keeps a copy. "
                f"Your own settings are safe in {name}.d/: systemctl --user edit {name}"
            )
            return False
        if found is UnitState.EDITED:
            copy = path.with_name(f"{name}.old")
            _move(path, copy)
            _say(f"{path} was edited; it is {copy.name} now.")
        _write(path, text)
        _say(f"{path} is written.")
        return True

    def _remove(self, name: str, *, removes_edited: bool) -> bool:
        """Remove a unit; whether it is gone."""
        path = self.directory / name
        if look(path, "") is UnitState.EDITED and not removes_edited:
            _say(f"{path} was edited and is left there; --force removes it.")
            return False
        _unlink(path)
        _say(f"{path} is removed.")
        _remove_drop_in(path)
        return True

    def _allow_for_missing_namespaces(self, units: Sequence[str]) -> None:
        """Take back what would keep the services from starting here."""
        assert self.systemctl
        if self.systemctl.allows_namespaces():
            for name in units:
                _remove_drop_in(self.directory / name)
            return
        _say(
            "users have no namespaces here (kernel.apparmor_restrict_unprivileged_userns or the "
            "like), so the services run without those of their protections that need one."
        )
        for name in units:
            if name != SOCKET:
                _write(_drop_in(self.directory / name), seal(WITHOUT_NAMESPACES))

    def _start(self, units: Sequence[str]) -> None:
        assert self.systemctl
        # A service that runs keeps its socket from being opened, and an open one the port.
        if SOCKET in units:
            self.systemctl.do("disable", "--now", SERVICE)
        elif (self.directory / SOCKET).exists():
            self.systemctl.do("disable", "--now", SOCKET)
            self._remove(SOCKET, removes_edited=False)
        if DICTATE in units:
            self.systemctl.import_desktop()
        for name in _started(units):
            self.systemctl.do("enable", name)
            self.systemctl.do("restart", name)
            _say(f"{name} is started, and will be with every session.")


def _started(units: Sequence[str]) -> list[str]:
    """Those that are started themselves: the socket starts its service."""
    return [name for name in units if name != SERVICE or SOCKET not in units]


def _drop_in(unit: Path) -> Path:
    return unit.with_name(f"{unit.name}.d") / "no-namespaces.conf"


def _remove_drop_in(unit: Path) -> None:
    """Remove what we wrote; what somebody wrote beside it stays."""
    drop_in = _drop_in(unit)
    if look(drop_in, "") in (UnitState.CURRENT, UnitState.OUTDATED):
        _unlink(drop_in)
        if not any(drop_in.parent.iterdir()):
            drop_in.parent.rmdir()


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error


def _move(path: Path, target: Path) -> None:
    try:
        path.replace(target)
    except OSError as error:
        raise OutputError(f"{path} cannot be moved: {error.strerror}.") from error


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise OutputError(f"{path} cannot be removed: {error.strerror}.") from error


def _say(sentence: str) -> None:
    print(sentence)
