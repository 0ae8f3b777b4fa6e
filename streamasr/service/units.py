"""Units of a user's systemd: their text for this machine, and the state of installed ones.

The templates in `systemd/` are valid units themselves; a wheel has them beside this file. The text
of an installed unit ends in a line with its hash, so that a unit that its user has edited is
recognised and kept.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from streamasr.core.errors import ConfigError, OutputError

SERVICE: Final = "streamasr.service"
SOCKET: Final = "streamasr.socket"
DICTATE: Final = "streamasr-dictate.service"
UNITS: Final = (SERVICE, SOCKET, DICTATE)

WITHOUT_NAMESPACES: Final = """\
# Users cannot create namespaces here, and a service with settings that need them does not start.
# Written by `streamasr service install`; all other settings of the unit hold.
[Service]
PrivateUsers=false
PrivateMounts=false
PrivateNetwork=false
CapabilityBoundingSet=~
ProtectKernelModules=false
ProtectKernelLogs=false
ProtectClock=false
"""
"""A drop-in for both services."""

_INSTALLED: Final = Path(__file__).with_name("systemd")
_CHECKED_OUT: Final = Path(__file__).parents[2] / "systemd"

_PROGRAM: Final = "%h/.local/bin/streamasr"
_STATE: Final = "%S/streamasr"
_PLACE: Final = "ListenStream=127.0.0.1:8765"
_NO_NETWORK: Final = f"""\
# The daemon takes over an open socket, and needs no network of its own.
Requires={SOCKET}
After={SOCKET}

[Service]
PrivateNetwork=true
"""

_SEAL: Final = "# As installed; without this line, or with another text, it counts as edited: "

_PLAIN: Final = re.compile(r"[\w./@:+,=-]+", re.ASCII)
_UNWRITABLE: Final = re.compile(r"[\0-\x1f\x7f]")


class UnitState(Enum):
    """State of a unit's file."""

    MISSING = "not installed"
    CURRENT = "installed"
    OUTDATED = "installed by another version or with other settings"
    EDITED = "edited by hand"


@dataclass(frozen=True, slots=True)
class Setting:
    """Values that differ from one installation to the next."""

    command: Sequence[str]
    """Command that runs this program."""
    options: Sequence[str] = ()
    """More options of both services."""
    written: Sequence[Path] = ()
    """Directories that the daemon writes to."""
    place: str = "127.0.0.1:8765"
    """Address of the socket, in systemd's notation."""
    by_socket: bool = False
    """The first client starts the daemon."""


def render(name: str, setting: Setting) -> str:
    """Return a unit for this machine, sealed.

    Args:
        name: one of `UNITS`.
        setting: of this installation.

    Raises:
        ConfigError: a unit cannot contain one of the paths.
    """
    text = template(name)
    tail = "".join(f" {quote(option, has_variables=True)}" for option in setting.options)
    text = re.sub(
        rf"^ExecStart={re.escape(_PROGRAM)}(.*)$",
        lambda found: f"ExecStart={quote_command(setting.command)}{found[1]}{tail}",
        text,
        flags=re.MULTILINE,
    )
    if setting.written:
        made = " ".join(quote(str(path), has_variables=True) for path in setting.written)
        text = text.replace(f"0700 {_STATE}", f"0700 {made}")
        text = text.replace(f"-{_STATE}", " ".join(quote(f"-{path}") for path in setting.written))
    if setting.by_socket:
        text = text.replace(f"Wants={SERVICE}", f"Wants={SOCKET}")
    if setting.by_socket and name == SERVICE:
        text = text.replace("[Service]\n", _NO_NETWORK, 1)
    return seal(text.replace(_PLACE, f"ListenStream={_escape(setting.place)}"))


def template(name: str) -> str:
    """Return a unit as it comes with the program."""
    directory = _INSTALLED if _INSTALLED.is_dir() else _CHECKED_OUT
    return (directory / name).read_text("utf-8")


def quote(value: str, *, has_variables: bool = False) -> str:
    """Quote a value for a list in a unit.

    Args:
        value: a path or an argument.
        has_variables: systemd replaces variables at this place.

    Raises:
        ConfigError: the value contains a control character.
    """
    escaped = _escape(value)
    if _PLAIN.fullmatch(value):
        return escaped
    inner = escaped.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inner.replace("$", "$$") if has_variables else inner}"'


def quote_command(command: Sequence[str]) -> str:
    """Quote a command; systemd does not replace variables in the path of its program.

    Raises:
        ConfigError: the path of the program contains a quote or a backslash, or a value a control
            character.
    """
    program, *arguments = command
    if any(sign in program for sign in "\"'\\"):
        raise ConfigError(
            f"{program} contains a quote or a backslash, and systemd cannot run it; install"
            " streamasr in another directory.",
            code="unit_program_path",
        )
    return " ".join([quote(program), *(quote(each, has_variables=True) for each in arguments)])


def _escape(value: str) -> str:
    if _UNWRITABLE.search(value):
        raise ConfigError(
            f"{value!r} contains a control character, which a unit cannot; choose another path.",
            code="unit_control_character",
        )
    return value.replace("%", "%%")


def seal(text: str) -> str:
    """Append the line with the hash to a text."""
    return f"{text}{_SEAL}{_hash(text)}\n"


def is_sealed(text: str) -> bool:
    """Return True if a text was sealed, and not edited since then."""
    inner, found, end = text.rpartition(_SEAL)
    return bool(found) and end.strip() == _hash(inner)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def look(path: Path, wanted: str) -> UnitState:
    """Compare a file with the sealed text that it should have.

    Raises:
        OutputError: the file cannot be read.
    """
    try:
        text = path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return UnitState.MISSING
    except OSError as error:
        raise OutputError(
            f"{path} cannot be read: {error.strerror}.", code="unit_unreadable"
        ) from error
    if text == wanted:
        return UnitState.CURRENT
    return UnitState.OUTDATED if is_sealed(text) else UnitState.EDITED
