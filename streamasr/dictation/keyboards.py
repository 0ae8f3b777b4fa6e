"""Programs that press keys, and the interface of each.

    wtype     Wayland compositors with the virtual-keyboard protocol (sway, Hyprland, ...): any text
    xdotool   X11: any text, with `x11.Keyboard`, which maps missing characters to spare keys
    dotool    anywhere, through the kernel: scan codes, so only characters common to all layouts
    ydotool   the same, through a daemon of its own, and only for the US layout

A scan code is a position on the keyboard; the desktop maps it to a character. So the last two type
nothing unless the layout is known, and then only letters, digits and punctuation that is not a dead
key in any layout; all other text goes through the clipboard.
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
"""Presses of a key in one run of a program, because each is an argument."""

_S_PER_CHARACTER: Final = 0.1
"""Time allowed per character; far above what any of these programs takes."""

LATIN_LAYOUTS: Final = frozenset(
    {"us", "gb", "ie", "de", "at", "ch", "nl", "be", "fr", "it", "es", "pt", "br", "latam"}
    | {"dk", "no", "se", "fi", "is", "ee", "lv", "lt", "pl", "cz", "sk", "hu", "hr", "si", "ro"}
)
"""Layouts with letters that dotool can type, as named by xkeyboard-config."""

_SAFE: Final = frozenset(string.ascii_letters + string.digits + " ,.-?!")
"""Characters that scan codes can type on each of these layouts."""


class Keyboard(abc.ABC):
    """Program that presses keys in the window that has the focus."""

    name: str

    @abc.abstractmethod
    async def check(self) -> None:
        """Test whether the program works on this desktop, without typing anything.

        Raises:
            ToolError: the program is missing, fails or does not end.
        """

    async def check_key(self, chord: str) -> None:  # noqa: B027 - some detect it only by pressing the key
        """Test whether a key exists, as far as possible without pressing it.

        Raises:
            ToolError: this program cannot press the key.
            ConfigError: the name does not denote a key at all.
        """

    def can_type(self, text: str) -> bool:  # noqa: ARG002 - most can
        """Return whether the program is certain to type exactly this text."""
        return True

    @abc.abstractmethod
    async def type(self, text: str) -> None:
        """Type a piece of text without line ends.

        Raises:
            ToolError: the text may not have been typed.
        """

    @abc.abstractmethod
    async def press(self, chord: str, times: int = 1) -> None:
        """Press a key, such as `BackSpace` or `shift+Insert`.

        Args:
            chord: modifiers (`shift`, `ctrl`, `alt`, `super`) and the X name of a key.
            times: number of presses, at most a few hundred.

        Raises:
            ToolError: the key may not have been pressed.
        """


async def _press(
    argv: Sequence[str], text: str = "", environment: Mapping[str, str] | None = None
) -> None:
    """Run a program that presses keys; a cancellation waits for its end.

    Raises:
        ToolError: the program failed or did not end in time.
    """
    timeout_s = TIMEOUT_S + _S_PER_CHARACTER * len(text)
    await run_tool(argv, text.encode(), timeout_s=timeout_s, environment=environment, is_whole=True)


def _runs(times: int) -> list[int]:
    return [min(_MAX_PRESSES, times - at) for at in range(0, times, _MAX_PRESSES)]


class Wtype(Keyboard):
    """Keyboard of wtype, which maps a key to each character, independent of any layout."""

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
    """Keyboard of an X display; see `x11.Keyboard`."""

    async def wait_until_released(self) -> None:
        """Wait until modifiers are released."""

    def portions(self, text: str) -> list[str]:
        """Divide a text so that there are enough spare keys for each part."""

    async def map_keys(self, text: str) -> None:
        """Map a key to each character that lacks one."""


class Xdotool(Keyboard):
    """Keyboard of xdotool, with keys of the layout; characters that lack a key are mapped first."""

    name = "xdotool"
    _DELAY_MS: Final = "4"  # between two keys

    def __init__(self, display: Display | None) -> None:
        """Use xdotool.

        Args:
            display: display to map missing characters on; without it, only ASCII is typed reliably.
        """
        self._display = display

    async def check(self) -> None:
        """See `Keyboard.check`."""
        await run_tool(["xdotool", "getdisplaygeometry"])

    async def check_key(self, chord: str) -> None:
        """See `Keyboard.check_key`; the test releases the key, which has no effect."""
        unknown = ConfigError(
            f"{chord!r} does not name a key; use X names such as Return, Tab or shift+Insert.",
            code="unknown_key",
        )
        names = [name for name in chord.split("+") if name not in _X_MODIFIERS]
        if not all(names):
            raise unknown
        try:
            for name in names:
                await run_tool(["xdotool", "keyup", name], alarm=b"No such key")
        except ToolError as error:
            raise unknown from error

    def can_type(self, text: str) -> bool:
        """See `Keyboard.can_type`."""
        return self._display is not None or text.isascii()

    async def type(self, text: str) -> None:
        """See `Keyboard.type`."""
        for portion in [text] if self._display is None else self._display.portions(text):
            if self._display is not None:
                await self._display.map_keys(portion)
            await self._run("type", "--file", "-", stdin=portion)

    async def press(self, chord: str, times: int = 1) -> None:
        """See `Keyboard.press`."""
        for n_presses in _runs(times):
            await self._run("key", *[chord] * n_presses)

    async def _run(self, command: str, *arguments: str, stdin: str = "") -> None:
        if self._display is not None:
            await self._display.wait_until_released()
        # Modifiers still held down, and Caps Lock, are released for the duration of the command.
        options = ["--clearmodifiers", "--delay", self._DELAY_MS]
        await _press(["xdotool", command, *options, *arguments], stdin)


_X_MODIFIERS: Final = frozenset({"shift", "ctrl", "control", "alt", "meta", "super"})
"""Keys that are not released in the test, because the user may hold them down."""


class Dotool(Keyboard):
    """Keyboard of dotool, which presses scan codes; see the module."""

    name = "dotool"

    def __init__(self, layout: str | None) -> None:
        """Use dotool.

        Args:
            layout: keyboard layout, as named by xkeyboard-config; None if unknown.
        """
        self._layout = layout

    async def check(self) -> None:
        """See `Keyboard.check`."""
        await self._send("")  # dotool creates its virtual keyboard before it reads stdin

    async def check_key(self, chord: str) -> None:
        """See `Keyboard.check_key`."""
        _linux_name(chord)

    def can_type(self, text: str) -> bool:
        """See `Keyboard.can_type`."""
        return self._layout in LATIN_LAYOUTS and _SAFE.issuperset(text)

    async def type(self, text: str) -> None:
        """See `Keyboard.type`."""
        await self._send(f"type {text}\n")

    async def press(self, chord: str, times: int = 1) -> None:
        """See `Keyboard.press`."""
        await self._send(f"key {_linux_name(chord)}\n" * times)

    async def _send(self, commands: str) -> None:
        layout = {"DOTOOL_XKB_LAYOUT": self._layout} if self._layout else {}
        await _press(["dotool"], commands, layout)


class Ydotool(Keyboard):
    """Keyboard of ydotool, which presses scan codes of a US keyboard; see the module."""

    name = "ydotool"

    def __init__(self, layout: str | None) -> None:
        """Use ydotool.

        Args:
            layout: keyboard layout, as for `Dotool`.
        """
        self._layout = layout

    async def check(self) -> None:
        """See `Keyboard.check`."""
        answer = await run_tool(["ydotool", "key", "--help"])
        if b"KEYCODE" not in answer.upper():
            raise ToolError(
                "this ydotool is older than 1.0; install a newer version.", code="ydotool_too_old"
            )

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
"""Codes of linux/input-event-codes.h: keys with the same position on every keyboard, and V."""


def _linux_name(chord: str) -> str:
    try:
        return "+".join(_LINUX_NAMES[name] for name in chord.split("+"))
    except KeyError as error:
        raise ToolError(
            f"there is no scan code for the key {error.args[0]}; known keys are"
            f" {', '.join(_LINUX_NAMES)}.",
            code="no_scan_code",
        ) from error
