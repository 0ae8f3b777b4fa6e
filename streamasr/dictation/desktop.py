"""Choice of the outputs that work on this desktop: by session, installed programs and a test."""

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
"""Outputs to try, by session. Programs that type text come before programs that press scan codes.
Programs of X11 reach only some windows of a Wayland desktop, so they are used there only on
request."""


@dataclass(frozen=True, slots=True)
class Desktop:
    """Desktop session in which text is typed."""

    session: Literal["wayland", "x11", "none"]
    layout: str | None
    """Keyboard layout, for programs that press scan codes; None if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypingOptions:
    """Options for typing text."""

    output: OutputName | None = None
    """Output to use; None for those that work."""
    layout: str | None = None
    """Keyboard layout, as named by xkeyboard-config; None for the one of the environment."""
    newline: str = RETURN
    """Key that ends a line."""
    paste_key: str = PASTE_KEY
    """Key that pastes the clipboard."""


def desktop_of(environment: Mapping[str, str]) -> Desktop:
    """Return the session and the keyboard layout that the environment states."""
    layout = environment.get("DOTOOL_XKB_LAYOUT") or environment.get("XKB_DEFAULT_LAYOUT") or None
    if environment.get("WAYLAND_DISPLAY"):
        return Desktop("wayland", layout)
    return Desktop("x11" if environment.get("DISPLAY") else "none", layout)


def order_for(desktop: Desktop, options: TypingOptions, *, has_terminal: bool) -> list[OutputName]:
    """Return the outputs to try, the best first; stdout only with a terminal."""
    if options.output is not None:
        return [options.output]
    return [name for name in _ORDER[desktop.session] if name != "stdout" or has_terminal]


@contextlib.asynccontextmanager
async def open_chain(
    environment: Mapping[str, str], options: TypingOptions, report: Callable[[str], None]
) -> AsyncIterator[Chain]:
    """Test the outputs, and hold those that work open as a chain.

    Args:
        environment: environment of the session.
        options: options of the user.
        report: shows a sentence to the user.

    Raises:
        ConfigError: none of the outputs works; the message gives the reason for each.
    """
    desktop = desktop_of(environment)
    names = order_for(desktop, options, has_terminal=sys.stdout.isatty())
    async with AsyncExitStack() as stack:
        factory = _OutputFactory(desktop, options, stack)
        tried = await asyncio.gather(*(factory.make(name) for name in names))
        working = [each for each in tried if isinstance(each, Output)]
        if not working:
            reasons = "; ".join(f"{name}: {why}" for name, why in zip(names, tried, strict=True))
            raise ConfigError(
                f"cannot type on this desktop ({reasons}); install one of these programs, or grant"
                " it access.",
                code="no_output_works",
            )
        yield Chain(working, report, focus=factory.focus)


class _OutputFactory:
    """Creates outputs for a desktop."""

    def __init__(self, desktop: Desktop, options: TypingOptions, stack: AsyncExitStack) -> None:
        self._desktop = desktop
        self._options = options
        self._stack = stack
        self._layout = options.layout or desktop.layout
        self._xdotool: Xdotool | None = None
        self.focus: Callable[[], object] | None = None

    async def make(self, name: OutputName) -> "Output | str":
        """Return an output that works, or the reason why it does not."""
        try:
            output = await self._output(name)
            await output.check()
        except ToolError as error:
            return str(error).rstrip(".")
        return output

    async def _output(self, name: OutputName) -> Output:
        match name:
            case "stdout":
                return Printing()
            case "paste":
                key = self._options.paste_key
                return Pasting(await self._clipboard(), await self._any_keyboard(), key=key)
            case _:
                return Typing(self._keyboard(name), newline=self._options.newline)

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
                if self._xdotool is None:  # shared by typing and pasting: it tracks remapped keys
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
        """Return the first keyboard that can press the paste key."""
        names = [name for name in _ORDER[self._desktop.session] if name not in ("paste", "stdout")]
        why = ToolError(
            "pressing the paste key needs a program that presses keys; install one of"
            f" {', '.join(names)}.",
            code="no_keyboard",
        )
        for name in names:
            try:
                keyboard = self._keyboard(name)
                await keyboard.check()
            except ToolError as error:
                why = error
            else:
                return keyboard
        raise why

    async def _clipboard(self) -> Clipboard:
        if self._desktop.session == "wayland":
            _find("wl-copy")
            return WlClipboard()
        return Xclip() if shutil.which("xclip") else _xsel()


def _xsel() -> Clipboard:
    if shutil.which("xsel") is None:
        raise ToolError(
            "neither xclip nor xsel is installed; install one of them.", code="not_installed"
        )
    return Xsel()


def _find(name: str) -> None:
    if shutil.which(name) is None:
        raise ToolError(f"{name} is not installed", code="not_installed")
