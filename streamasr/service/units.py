"""The units of a user's systemd: their text for this machine, and what lies where they belong.

They are templates in `systemd/` that are valid units themselves; a wheel has them beside this file.
What was installed ends in a line with its hash, so that a unit which its user has edited is known
and left alone.
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
# Users have no namespaces here, so that a service which wants what needs one does not start.
# Written by `streamasr service install`; everything else of the unit holds.
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
# It takes over a socket that is open already, and needs no network of its own.
Requires={SOCKET}
After={SOCKET}

[Service]
PrivateNetwork=true
"""

_SEAL: Final = "# As installed; without this line, or with another text, it counts as edited: "

_PLAIN: Final = re.compile(r"[\w./@:+,=-]+", re.ASCII)
_UNWRITABLE: Final = re.compile(r"[\0-\x1f\x7f]")


class Found(Enum):
    """What lies where a unit belongs."""

    MISSING = "not installed"
    CURRENT = "installed"
    OUTDATED = "installed by another version or with other settings"
    EDITED = "edited by hand"


@dataclass(frozen=True, slots=True)
class Setting:
    """What differs from one installation to the next."""

    command: Sequence[str]
    """How this program is run."""
    options: Sequence[str] = ()
    """More options of both services."""
    written: Sequence[Path] = ()
    """Directories that the daemon writes to."""
    place: str = "127.0.0.1:8765"
    """Where the socket listens, as systemd writes it."""
    by_socket: bool = False
    """Whether the daemon is started by its first client."""


def render(name: str, setting: Setting) -> str:
    """A unit for this machine, sealed.

    Args:
        name: one of `UNITS`.
        setting: what holds here.

    Raises:
        ConfigError: a path that no unit can hold.
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
    """A unit as it comes with the program."""
    directory = _INSTALLED if _INSTALLED.is_dir() else _CHECKED_OUT
    return (directory / name).read_text("utf-8")


def quote(value: str, *, has_variables: bool = False) -> str:
    """A value as one of a list in a unit.

    Args:
        value: a path or an argument.
        has_variables: whether systemd would put values in the place of variables.

    Raises:
        ConfigError: it holds what cannot be written.
    """
    escaped = _escape(value)
    if _PLAIN.fullmatch(value):
        return escaped
    inner = escaped.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inner.replace("$", "$$") if has_variables else inner}"'


def quote_command(command: Sequence[str]) -> str:
    """A command; in the path of its program no variables are looked for.

    Raises:
        ConfigError: systemd would not run it.
    """
    program, *arguments = command
    if any(sign in program for sign in "\"'\\"):
        raise ConfigError(f"systemd runs no program with a quote or a backslash in it: {program}")
    return " ".join([quote(program), *(quote(each, has_variables=True) for each in arguments)])


def _escape(value: str) -> str:
    if _UNWRITABLE.search(value):
        raise ConfigError(f"no unit can hold a line break or the like: {value!r}")
    return value.replace("%", "%%")


def seal(text: str) -> str:
    """Mark a text as ours."""
    return f"{text}{_SEAL}{_hash(text)}\n"


def is_sealed(text: str) -> bool:
    """Whether nobody has edited a text since we sealed it."""
    inner, found, end = text.rpartition(_SEAL)
    return bool(found) and end.strip() == _hash(inner)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def look(path: Path, wanted: str) -> Found:
    """What lies at a place where a sealed text is wanted.

    Raises:
        OutputError: it cannot be read.
    """
    try:
        text = path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return Found.MISSING
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}.") from error
    if text == wanted:
        return Found.CURRENT
    return Found.OUTDATED if is_sealed(text) else Found.EDITED
