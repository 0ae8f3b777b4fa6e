"""What can type on this desktop: by the session, by what is installed, and by trying it."""

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from streamasr.core.errors import ConfigError
from streamasr.dictation.clipboard import Clipboard, WlClipboard, Xclip, Xsel
from streamasr.dictation.keyboards import RETURN, Dotool, Keyboard, Wtype, Xdotool, Ydotool
from streamasr.dictation.outputs import PASTE_KEY, Chain, Output, Pasting, Printing, Typing
from streamasr.dictation.tools import ToolError

if TYPE_CHECKING:
    from streamasr.dictation import x11

OutputName: TypeAlias = Literal["wtype", "dotool", "ydotool", "xdotool", "paste", "stdout"]
OUTPUTS: Final[tuple[OutputName, ...]] = (
    "wtype",
    "dotool",
    "ydotool",
    "xdotool",
    "paste",
    "stdout",
)

_ORDER: Final[Mapping[str, tuple[OutputName, ...]]] = {
    "wayland": ("wtype", "dotool", "ydotool", "paste", "stdout"),
    "x11": ("xdotool", "paste", "dotool", "ydotool", "stdout"),
    "none": ("dotool", "ydotool", "stdout"),
}
"""Those that type text before those that press scan codes, where both may be there. Those of X11
reach only some windows of a Wayland desktop, and are left out there unless they are named."""


@dataclass(frozen=True, slots=True)
class Desktop:
    """Where text shall be typed."""

    session: Literal["wayland", "x11", "none"]
    layout: str | None
    """Of the keyboard, for programs that press scan codes; None if nobody says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypingWishes:
    """How text shall be typed."""

    output: OutputName | None = None
    """None: whatever works."""
    layout: str | None = None
    """Of the keyboard, as xkeyboard-config names it; None: what the environment says."""
    newline: str = RETURN
    paste_key: str = PASTE_KEY


def desktop_of(environment: Mapping[str, str]) -> Desktop:
    """Read from the environment what the session is."""
    layout = environment.get("DOTOOL_XKB_LAYOUT") or environment.get("XKB_DEFAULT_LAYOUT") or None
    if environment.get("WAYLAND_DISPLAY"):
        return Desktop("wayland", layout)
    return Desktop("x11" if environment.get("DISPLAY") else "none", layout)


def order_for(desktop: Desktop, wishes: TypingWishes, *, has_terminal: bool) -> list[OutputName]:
    """The outputs to try, the best first; stdout only where somebody sees it."""
    if wishes.output is not None:
        return [wishes.output]
    return [name for name in _ORDER[desktop.session] if name != "stdout" or has_terminal]


@contextlib.asynccontextmanager
async def open_chain(
    environment: Mapping[str, str], wishes: TypingWishes, report: Callable[[str], None]
) -> AsyncIterator[Chain]:
    """Find out what works here.

    Args:
        environment: of the session.
        wishes: of the user.
        report: takes a sentence for people.

    Raises:
        ConfigError: nothing does; it says why each does not.
    """
    desktop = desktop_of(environment)
    names = order_for(desktop, wishes, has_terminal=sys.stdout.isatty())
    async with AsyncExitStack() as stack:
        kit = _Kit(desktop, wishes, stack)
        tried = await asyncio.gather(*(kit.make(name) for name in names))
        working = [one for one in tried if isinstance(one, Output)]
        if not working:
            complaints = "; ".join(f"{name}: {why}" for name, why in zip(names, tried, strict=True))
            raise ConfigError(f"nothing can type on this desktop ({complaints})")
        yield Chain(working, report, focus=kit.focus)


class _Kit:
    """Makes outputs."""

    def __init__(self, desktop: Desktop, wishes: TypingWishes, stack: AsyncExitStack) -> None:
        self._desktop = desktop
        self._wishes = wishes
        self._stack = stack
        self._layout = wishes.layout or desktop.layout
        self._xdotool: Xdotool | None = None
        self.focus: Callable[[], object] | None = None

    async def make(self, name: OutputName) -> "Output | str":
        """An output that works, or why it does not."""
        try:
            output = await self._output(name)
            await output.check()
        except ToolError as error:
            return str(error)
        return output

    async def _output(self, name: OutputName) -> Output:
        match name:
            case "stdout":
                return Printing()
            case "paste":
                key = self._wishes.paste_key
                return Pasting(await self._clipboard(), await self._any_keyboard(), key=key)
            case _:
                return Typing(self._keyboard(name), newline=self._wishes.newline)

    def _keyboard(self, name: str) -> Keyboard:
        _find(name)
        match name:
            case "wtype":
                return Wtype()
            case "dotool":
                return Dotool(self._layout)
            case "ydotool":
                return Ydotool(self._layout)
            case _:
                if self._xdotool is None:  # one for typing and pasting: it knows what it has lent
                    self._xdotool = Xdotool(self._open_display())
                return self._xdotool

    def _open_display(self) -> "x11.Keyboard | None":
        try:
            from streamasr.dictation import x11  # needs libxcb
        except OSError:
            return None
        display = self._stack.enter_context(x11.Keyboard.of_display())
        if self._desktop.session == "x11":
            self.focus = display.focus
        return display

    async def _any_keyboard(self) -> Keyboard:
        """One that can press the key that pastes."""
        names = [name for name in _ORDER[self._desktop.session] if name not in ("paste", "stdout")]
        why = "there is no program that presses keys"
        for name in names:
            try:
                keyboard = self._keyboard(name)
                await keyboard.check()
            except ToolError as error:
                why = str(error)
            else:
                return keyboard
        raise ToolError(why)

    async def _clipboard(self) -> Clipboard:
        if self._desktop.session == "wayland":
            _find("wl-copy")
            return WlClipboard()
        return Xclip() if shutil.which("xclip") else _xsel()


def _xsel() -> Clipboard:
    if shutil.which("xsel") is None:
        raise ToolError("neither xclip nor xsel is installed")
    return Xsel()


def _find(name: str) -> None:
    if shutil.which(name) is None:
        raise ToolError(f"{name} is not installed")
