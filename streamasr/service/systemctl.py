"""systemd's manager of a user's services, asked by `systemctl --user`."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, Self

from streamasr.core.errors import OutputError

_TIMEOUT_S: Final = 60.0
_START_TIMEOUT_S: Final = 31 * 60.0
"""Longer than the unit gives the daemon for its start."""

_DISPLAYS: Final = ("WAYLAND_DISPLAY", "DISPLAY")
_DESKTOP: Final = (*_DISPLAYS, "XAUTHORITY")


class Systemctl:
    """Runs `systemctl --user`."""

    def __init__(self, program: str) -> None:
        """Use this program; `find` searches for it."""
        self._program = program

    @classmethod
    def find(cls) -> Self | None:
        """Return a working one.

        Returns:
            None if systemd does not run the services of this user, as in most containers.
        """
        program = shutil.which("systemctl")
        if program is None:
            return None
        found = cls(program)
        code, _ = found._run("show", "--property=Version")
        return None if code else found

    def do(self, *arguments: str) -> None:
        """Run a command of systemctl.

        Raises:
            OutputError: the command was refused or has failed.
        """
        code, output = self._run(*arguments, timeout_s=_START_TIMEOUT_S)
        if code:
            sentence = " ".join(output.split()) or f"exit code {code}"
            raise OutputError(
                f"systemctl --user {' '.join(arguments)}: {sentence}", code="systemctl_failed"
            )

    def show(self, unit: str) -> dict[str, str]:
        """Return ActiveState, UnitFileState and StatusText of a unit, each perhaps empty."""
        _, output = self._run("show", unit, "--property=ActiveState,UnitFileState,StatusText")
        return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)

    def import_desktop(self) -> None:
        """Pass the variables of this desktop to systemd, unless the desktop has done so.

        Without them, a service cannot type.

        Raises:
            OutputError: systemd refused the variables.
        """
        _, output = self._run("show-environment")
        known = {line.partition("=")[0] for line in output.splitlines()}
        if known.isdisjoint(_DISPLAYS) and (ours := [n for n in _DESKTOP if os.environ.get(n)]):
            self.do("import-environment", *ours)

    def allows_namespaces(self) -> bool:
        """Return True if a service can have the namespaces of our units; a test starts one."""
        program = shutil.which("systemd-run")
        if program is None:
            return True
        wanted = ("PrivateUsers=true", "PrivateMounts=true", "CapabilityBoundingSet=")
        options = [f"--property={one}" for one in (*wanted, "ProtectClock=true")]
        code, _ = _run(
            [program, "--user", "--wait", "--collect", "--quiet", *options, "true"], _TIMEOUT_S
        )
        return code == 0

    def _run(self, *arguments: str, timeout_s: float = _TIMEOUT_S) -> tuple[int, str]:
        return _run([self._program, "--user", *arguments], timeout_s)


def user_units() -> Path:
    """Return the directory of the units of this user.

    Raises:
        OutputError: the home directory of this user is unknown.
    """
    import platformdirs

    try:
        return Path(platformdirs.user_config_path()) / "systemd" / "user"
    except RuntimeError as error:
        raise OutputError(
            "the home directory is unknown; set HOME.", code="home_unknown"
        ) from error


def _run(command: list[str], timeout_s: float) -> tuple[int, str]:
    """Return the exit code and the output."""
    try:
        done = subprocess.run(  # noqa: S603 - systemd's own programs
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=os.environ | {"LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, f"{command[0]}: {error}"
    return done.returncode, done.stdout + done.stderr
