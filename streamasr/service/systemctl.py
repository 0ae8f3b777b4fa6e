"""The manager of a user's services, as far as it can be asked."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, Self

from streamasr.core.errors import OutputError

_TIMEOUT_S: Final = 60.0
_START_TIMEOUT_S: Final = 31 * 60.0
"""Longer than the daemon may take for its start."""

_DISPLAYS: Final = ("WAYLAND_DISPLAY", "DISPLAY")
_DESKTOP: Final = (*_DISPLAYS, "XAUTHORITY")


class Systemctl:
    """`systemctl --user`, where there is one and somebody answers."""

    def __init__(self, program: str) -> None:
        """Use a program; `find` looks for it."""
        self._program = program

    @classmethod
    def find(cls) -> Self | None:
        """None where systemd does not run the services of this user, as in most containers."""
        program = shutil.which("systemctl")
        if program is None:
            return None
        found = cls(program)
        code, _ = found._run("show", "--property=Version")
        return None if code else found

    def do(self, *arguments: str) -> None:
        """Have something done.

        Raises:
            OutputError: it was refused, or failed.
        """
        code, said = self._run(*arguments, timeout_s=_START_TIMEOUT_S)
        if code:
            sentence = " ".join(said.split()) or f"it ended with {code}"
            raise OutputError(f"systemctl --user {' '.join(arguments)}: {sentence}")

    def show(self, unit: str) -> dict[str, str]:
        """How a unit is: ActiveState, UnitFileState and StatusText, each perhaps empty."""
        _, said = self._run("show", unit, "--property=ActiveState,UnitFileState,StatusText")
        return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)

    def learn_desktop(self) -> None:
        """Tell it where this desktop is, which not all desktops do; without, nothing can type.

        Raises:
            OutputError: it was refused.
        """
        _, said = self._run("show-environment")
        known = {line.partition("=")[0] for line in said.splitlines()}
        if known.isdisjoint(_DISPLAYS) and (ours := [n for n in _DESKTOP if os.environ.get(n)]):
            self.do("import-environment", *ours)

    def gives_namespaces(self) -> bool:
        """Whether a service can have what our units ask for; found out by starting one."""
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
    """Where the units are that a user has written.

    Raises:
        OutputError: nobody knows where this user is at home.
    """
    import platformdirs

    try:
        return Path(platformdirs.user_config_path()) / "systemd" / "user"
    except RuntimeError as error:
        raise OutputError("it is not known where your home directory is: set HOME.") from error


def _run(command: list[str], timeout_s: float) -> tuple[int, str]:
    """The exit code, and what was said."""
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
