"""Installation of the units in the systemd of a user."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamasr.core.errors import OutputError
from streamasr.service.systemctl import Systemctl
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


@dataclass(frozen=True, slots=True)
class Installation:
    """Units in a directory, and the service manager that reads them there."""

    directory: Path
    systemctl: Systemctl | None
    """None where systemd does not run the services of users."""
    say: Callable[[str], None]
    """Receives sentences for the user: what was done, and what was left as it is."""

    def check_alone(self, process: int | None) -> None:
        """Refuse to start a service beside a daemon that was started by hand.

        Args:
            process: of the running daemon; None where none is running.

        Raises:
            OutputError: a daemon was started by hand and is running.
        """
        if process is None or self.systemctl is None:
            return
        if self.systemctl.show(SERVICE).get("ActiveState") in (None, "", "inactive", "failed"):
            raise OutputError(
                f"process {process} is a daemon that was started by hand, and the service could "
                f"not listen: stop it (kill {process}), then install the service.",
                code="daemon_running",
            )

    def install(self, units: Sequence[str], setting: Setting, *, replaces: bool) -> bool:
        """Write units and start them; return whether all are as they should be.

        Args:
            units: with the names of `units.UNITS`.
            setting: facts about this machine and its configuration.
            replaces: whether edited units are replaced; a copy of them stays.

        Raises:
            OutputError: a unit cannot be written or started.
        """
        wanted = {name: render(name, setting) for name in units}
        kept = [name for name in units if not self._write(name, wanted[name], replaces=replaces)]
        if self.systemctl is None:
            self.say(
                "systemd does not run your services here. Where it does: systemctl --user enable "
                f"--now {' '.join(_started(units))}"
            )
            return not kept
        self._allow_for_missing_namespaces(units)
        self.systemctl.do("daemon-reload")
        self._start(units)
        return not kept

    def uninstall(self, *, removes_edited: bool) -> bool:
        """Stop and remove the installed units; return whether all are gone.

        Raises:
            OutputError: a unit cannot be stopped or removed.
        """
        there = [name for name in UNITS if (self.directory / name).exists()]
        if not there:
            self.say("nothing is installed.")
            return True
        if self.systemctl:
            # The socket first, or it would start the service again.
            self.systemctl.do("disable", "--now", *sorted(there, key=lambda name: name != SOCKET))
        kept = [name for name in there if not self._remove(name, removes_edited=removes_edited)]
        if self.systemctl:
            self.systemctl.do("daemon-reload")
        return not kept

    def report(self) -> bool:
        """Report the state of each unit; return whether the daemon runs or awaits a client."""
        is_up = False
        for name in UNITS:
            path = self.directory / name
            found = self._look(path)
            if found is UnitState.MISSING:
                self.say(f"{name}: {found.value}")
                continue
            state = self.systemctl.show(name) if self.systemctl else {}
            active, enabled = state.get("ActiveState", ""), state.get("UnitFileState", "")
            facts = [found.value, enabled, active, state.get("StatusText", "")]
            self.say(f"{name}: {', '.join(fact for fact in facts if fact)}")
            is_up |= name != DICTATE and active in ("active", "reloading")
        if self.systemctl is None:
            self.say("systemd does not run your services here.")
        return is_up

    def _look(self, path: Path) -> UnitState:
        """Return the state of an installed unit; an outdated one is current if unedited."""
        found = look(path, "")
        return UnitState.CURRENT if found is UnitState.OUTDATED else found

    def _write(self, name: str, text: str, *, replaces: bool) -> bool:
        """Write a unit; return whether it is as it should be now."""
        path = self.directory / name
        found = look(path, text)
        if found is UnitState.CURRENT:
            self.say(f"{path} is up to date.")
            return True
        if found is UnitState.EDITED and not replaces:
            self.say(
                f"{path} was edited and is left as it is; --force replaces it and keeps a copy. "
                f"Your own settings are safe in {name}.d/: systemctl --user edit {name}"
            )
            return False
        if found is UnitState.EDITED:
            copy = path.with_name(f"{name}.old")
            _move(path, copy)
            self.say(f"{path} was edited; it is {copy.name} now.")
        _write(path, text)
        self.say(f"{path} is written.")
        return True

    def _remove(self, name: str, *, removes_edited: bool) -> bool:
        """Remove a unit; return whether it is gone."""
        path = self.directory / name
        if look(path, "") is UnitState.EDITED and not removes_edited:
            self.say(f"{path} was edited and is left there; --force removes it.")
            return False
        _unlink(path)
        self.say(f"{path} is removed.")
        _remove_drop_in(path)
        return True

    def _allow_for_missing_namespaces(self, units: Sequence[str]) -> None:
        """Drop the protections that would keep the services from starting here."""
        assert self.systemctl
        if self.systemctl.allows_namespaces():
            for name in units:
                _remove_drop_in(self.directory / name)
            return
        self.say(
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
            self.say(f"{name} is started, and will be with every session.")


def _started(units: Sequence[str]) -> list[str]:
    """Return the units to start: a socket starts its service itself."""
    return [name for name in units if name != SERVICE or SOCKET not in units]


def _drop_in(unit: Path) -> Path:
    return unit.with_name(f"{unit.name}.d") / "no-namespaces.conf"


def _remove_drop_in(unit: Path) -> None:
    """Remove the drop-in that we wrote; other drop-ins stay."""
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
        raise OutputError(
            f"{path} cannot be written: {error.strerror}.", code="file_not_written"
        ) from error


def _move(path: Path, target: Path) -> None:
    try:
        path.replace(target)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be moved: {error.strerror}.", code="file_not_moved"
        ) from error


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise OutputError(
            f"{path} cannot be removed: {error.strerror}.", code="file_not_removed"
        ) from error
