"""The programs that press keys for us, and how each is spoken to.

    wtype     Wayland compositors with the virtual-keyboard protocol (sway, Hyprland, ...): any text
    xdotool   X11: any text, with `x11.Keyboard`, which lends keys to what the layout lacks
    dotool    anywhere, through the kernel: scan codes, so only what every layout of a kind has
    ydotool   the same, through a daemon of its own, and only for the layout of the US

A scan code is a place on the keyboard: which letter it gives is the desktop's business. So the last
two type nothing unless the layout is known, and then only letters, digits and the signs that no
layout has as a dead key; everything else goes through the clipboard.
"""

import abc
import string
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from streamasr.core.errors import ConfigError
from streamasr.dictation.tools import TIMEOUT_S, ToolError, run_tool

BACKSPACE: Final = "BackSpace"
RETURN: Final = "Return"
TAB: Final = "Tab"

_MAX_PRESSES: Final = 100
"""Of keys in one run of a program: its arguments."""

_S_PER_CHARACTER: Final = 0.1
"""Far more than any of them needs."""

LATIN_LAYOUTS: Final = frozenset(
    {"us", "gb", "ie", "de", "at", "ch", "nl", "be", "fr", "it", "es", "pt", "br", "latam"}
    | {"dk", "no", "se", "fi", "is", "ee", "lv", "lt", "pl", "cz", "sk", "hu", "hr", "si", "ro"}
)
"""Those whose letters dotool finds; names are of xkeyboard-config."""

_SAFE: Final = frozenset(string.ascii_letters + string.digits + " ,.-?!")


class Keyboard(abc.ABC):
    """A program that presses keys in the window that has the focus."""

    name: str

    @abc.abstractmethod
    async def check(self) -> None:
        """Find out whether it works on this desktop, without typing anything.

        Raises:
            ToolError: it does not.
        """

    async def check_key(self, chord: str) -> None:  # noqa: B027 - some find out when they press it
        """Find out whether there is a key, as far as that can be told without pressing it.

        Raises:
            ToolError: this program has no such key.
            ConfigError: nobody has.
        """

    def can_type(self, text: str) -> bool:  # noqa: ARG002 - most can
        """Whether it is sure to type exactly this."""
        return True

    @abc.abstractmethod
    async def type(self, text: str) -> None:
        """Type a piece of text without line ends.

        Raises:
            ToolError: it may not have.
        """

    @abc.abstractmethod
    async def press(self, chord: str, times: int = 1) -> None:
        """Press a key, such as `BackSpace` or `shift+Insert`.

        Args:
            chord: modifiers (`shift`, `ctrl`, `alt`, `super`) and the X name of a key.
            times: at most a few hundred.

        Raises:
            ToolError: it may not have.
        """


async def _press(
    argv: Sequence[str], text: str = "", environment: Mapping[str, str] | None = None
) -> None:
    """Have a program press keys; once it has begun, it comes to its end.

    Raises:
        ToolError: it may not have.
    """
    timeout_s = TIMEOUT_S + _S_PER_CHARACTER * len(text)
    await run_tool(argv, text.encode(), timeout_s=timeout_s, environment=environment, is_whole=True)


def _runs(times: int) -> list[int]:
    return [min(_MAX_PRESSES, times - at) for at in range(0, times, _MAX_PRESSES)]


class Wtype(Keyboard):
    """Has a keyboard of its own with a key for each character, so nothing else matters to it."""

    name = "wtype"

    async def check(self) -> None:
        """See `Keyboard.check`."""
        await run_tool(["wtype", ""])

    async def type(self, text: str) -> None:
        """See `Keyboard.type`."""
        await _press(["wtype", "-"], text)

    async def press(self, chord: str, times: int = 1) -> None:
        """See `Keyboard.press`."""
        *modifiers, key = chord.split("+")
        down = [word for name in modifiers for word in ("-M", _WTYPE_MODIFIERS.get(name, name))]
        up = [word for name in modifiers for word in ("-m", _WTYPE_MODIFIERS.get(name, name))]
        for n_presses in _runs(times):
            await _press(["wtype", *down, *["-k", key] * n_presses, *up])


_WTYPE_MODIFIERS: Final = {"super": "logo"}


class Display(Protocol):
    """See `x11.Keyboard`."""

    async def wait_until_released(self) -> None:
        """Wait for modifiers."""

    def portions(self, text: str) -> list[str]:
        """Cut a text so that there are keys enough for each part."""

    async def lend(self, text: str) -> None:
        """See that there is a key for each character."""


class Xdotool(Keyboard):
    """Presses the keys of the layout; where that lacks a character, one is lent to it."""

    name = "xdotool"
    _DELAY_MS: Final = "4"

    def __init__(self, display: Display | None) -> None:
        """Use xdotool.

        Args:
            display: whose keyboard it is; without, only ASCII can be trusted to it.
        """
        self._display = display

    async def check(self) -> None:
        """See `Keyboard.check`."""
        await run_tool(["xdotool", "getdisplaygeometry"])

    async def check_key(self, chord: str) -> None:
        """See `Keyboard.check_key`: a key that nobody holds is released."""
        complaint = (
            f"there is no key {chord!r}; X calls them Return, Tab, shift+Insert or the like."
        )
        names = [name for name in chord.split("+") if name not in _X_MODIFIERS]
        if not all(names):
            raise ConfigError(complaint)
        try:
            for name in names:
                await run_tool(["xdotool", "keyup", name], alarm=b"No such key")
        except ToolError as error:
            raise ConfigError(complaint) from error

    def can_type(self, text: str) -> bool:
        """See `Keyboard.can_type`."""
        return self._display is not None or text.isascii()

    async def type(self, text: str) -> None:
        """See `Keyboard.type`."""
        for portion in [text] if self._display is None else self._display.portions(text):
            if self._display is not None:
                await self._display.lend(portion)
            await self._run("type", "--file", "-", stdin=portion)

    async def press(self, chord: str, times: int = 1) -> None:
        """See `Keyboard.press`."""
        for n_presses in _runs(times):
            await self._run("key", *[chord] * n_presses)

    async def _run(self, command: str, *arguments: str, stdin: str = "") -> None:
        if self._display is not None:
            await self._display.wait_until_released()
        # Modifiers that are still held by then, and Caps Lock, are released meanwhile.
        options = ["--clearmodifiers", "--delay", self._DELAY_MS]
        await _press(["xdotool", command, *options, *arguments], stdin)


_X_MODIFIERS: Final = frozenset({"shift", "ctrl", "control", "alt", "meta", "super"})
"""Somebody may be holding them."""


class Dotool(Keyboard):
    """Presses scan codes; see the module."""

    name = "dotool"

    def __init__(self, layout: str | None) -> None:
        """Use dotool.

        Args:
            layout: of the desktop, as xkeyboard-config names it; None if nobody knows.
        """
        self._layout = layout

    async def check(self) -> None:
        """See `Keyboard.check`."""
        await self._say("")  # it makes its keyboard before it reads

    async def check_key(self, chord: str) -> None:
        """See `Keyboard.check_key`."""
        _linux_name(chord)

    def can_type(self, text: str) -> bool:
        """See `Keyboard.can_type`."""
        return self._layout in LATIN_LAYOUTS and _SAFE.issuperset(text)

    async def type(self, text: str) -> None:
        """See `Keyboard.type`."""
        await self._say(f"type {text}\n")

    async def press(self, chord: str, times: int = 1) -> None:
        """See `Keyboard.press`."""
        await self._say(f"key {_linux_name(chord)}\n" * times)

    async def _say(self, orders: str) -> None:
        layout = {"DOTOOL_XKB_LAYOUT": self._layout} if self._layout else {}
        await _press(["dotool"], orders, layout)


class Ydotool(Keyboard):
    """Presses scan codes of a US keyboard; see the module."""

    name = "ydotool"

    def __init__(self, layout: str | None) -> None:
        """Use ydotool.

        Args:
            layout: as of `Dotool`.
        """
        self._layout = layout

    async def check(self) -> None:
        """See `Keyboard.check`."""
        answer = await run_tool(["ydotool", "key", "--help"])
        if b"KEYCODE" not in answer.upper():
            raise ToolError("this ydotool is older than 1.0")

    async def check_key(self, chord: str) -> None:
        """See `Keyboard.check_key`."""
        _linux_name(chord)

    def can_type(self, text: str) -> bool:
        """See `Keyboard.can_type`."""
        return self._layout == "us" and _SAFE.issuperset(text)

    async def type(self, text: str) -> None:
        """See `Keyboard.type`."""
        await _press(["ydotool", "type", "--file", "-"], text)

    async def press(self, chord: str, times: int = 1) -> None:
        """See `Keyboard.press`."""
        codes = [_SCAN_CODES[name] for name in _linux_name(chord).split("+")]
        once = [f"{code}:1" for code in codes] + [f"{code}:0" for code in reversed(codes)]
        for n_presses in _runs(times):
            await _press(["ydotool", "key", *once * n_presses])


_LINUX_NAMES: Final[Mapping[str, str]] = {
    BACKSPACE: "backspace",
    RETURN: "enter",
    TAB: "tab",
    "Insert": "insert",
    "ctrl": "ctrl",
    "shift": "shift",
    "alt": "alt",
    "super": "super",
    "v": "v",
    "V": "v",
}
_SCAN_CODES: Final[Mapping[str, int]] = {
    "backspace": 14,
    "tab": 15,
    "enter": 28,
    "ctrl": 29,
    "shift": 42,
    "v": 47,
    "alt": 56,
    "insert": 110,
    "super": 125,
}
"""Of linux/input-event-codes.h; those that are in the same place on every keyboard, and V."""


def _linux_name(chord: str) -> str:
    try:
        return "+".join(_LINUX_NAMES[name] for name in chord.split("+"))
    except KeyError as error:
        raise ToolError(f"there is no scan code for the key {error.args[0]}") from error
