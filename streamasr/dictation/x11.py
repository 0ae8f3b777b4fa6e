"""The keyboard of an X display: what is held down, and keys for characters that no key has.

xdotool types a character that the layout lacks by giving it to a spare key for the moment of the
key's press. Windows look keys up when they get round to it, often after the key has been given to
the next character: what they show then is wrong. So before it types, all characters of a portion
that no key has are given keys here, and stay there while they are not needed for others; xdotool
finds them in the layout like any other.
"""

import asyncio
import contextlib
import ctypes
import ctypes.util
import logging
from collections.abc import Callable, Iterator
from typing import Any, Final

import xcffib
import xcffib.xproto

from streamasr.dictation.tools import DesktopGoneError, ToolError

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.02
_RELEASE_TIMEOUT_S: Final = 3.0
"""Whoever still holds Shift then has it released for them by xdotool."""

_SETTLE_S: Final = 0.06
"""For windows to learn of new keys."""

_KEPT_FOR_OTHERS: Final = 2
"""Spare keys that are left for other programs that do the same."""

_MODIFIERS: Final = (
    xcffib.xproto.KeyButMask.Shift
    | xcffib.xproto.KeyButMask.Control
    | xcffib.xproto.KeyButMask.Mod1  # Alt
    | xcffib.xproto.KeyButMask.Mod3
    | xcffib.xproto.KeyButMask.Mod4  # Super
    | xcffib.xproto.KeyButMask.Mod5  # AltGr
)
"""Those that turn text into shortcuts; not the locks."""

_UNICODE: Final = 0x0100_0000
"""Keysyms beyond this are code points."""


def keysym_of(character: str) -> int:
    """The keysym of a character; Latin 1 is its own.

    Source: X Window System Protocol, appendix A.
    """
    code = ord(character)
    return code if 0x20 <= code <= 0x7E or 0xA0 <= code <= 0xFF else _UNICODE | code


def portions(text: str, is_known: Callable[[str], bool], n_spare: int) -> list[str]:
    """Cut a text into parts of which each has at most `n_spare` different unknown characters."""
    cut: list[str] = []
    begin, unknown = 0, set[str]()
    for at, character in enumerate(text):
        if is_known(character) or character in unknown:
            continue
        if len(unknown) == n_spare:
            cut.append(text[begin:at])
            begin, unknown = at, set()
        unknown.add(character)
    return [*cut, text[begin:]]


class Keyboard:
    """The keyboard of a display."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        setup = connection.get_setup()
        self._first = setup.min_keycode
        self._n_keys = setup.max_keycode - setup.min_keycode + 1
        self._root = setup.roots[0].root
        self._lent: dict[int, str] = {}  # by key, the longest unused first
        self._character = _character_finder()

    @classmethod
    @contextlib.contextmanager
    def of_display(cls, display: str | None = None) -> "Iterator[Keyboard]":
        """Connect to a display; what was lent is taken back at the end.

        Raises:
            ToolError: there is none.
        """
        try:
            connect: Any = xcffib.connect  # it has no types
            connection = connect(display)
        except xcffib.ConnectionException as error:
            raise ToolError("there is no X display") from error
        keyboard = cls(connection)
        try:
            yield keyboard
        finally:
            with contextlib.suppress(xcffib.ConnectionException):
                keyboard.take_back()
                connection.disconnect()

    def holds_modifiers(self) -> bool:
        """Whether anybody holds Shift or the like down.

        Raises:
            DesktopGoneError: the display is gone.
        """
        with _telling():
            pointer = self._connection.core.QueryPointer(self._root).reply()
        return bool(pointer.mask & _MODIFIERS)

    def focus(self) -> int:
        """The window that keys go to.

        Raises:
            DesktopGoneError: the display is gone.
        """
        with _telling():
            return int(self._connection.core.GetInputFocus().reply().focus)

    async def wait_until_released(self) -> None:
        """Wait for modifiers, for a while."""
        for _ in range(round(_RELEASE_TIMEOUT_S / _POLL_S)):
            if not self.holds_modifiers():
                return
            await asyncio.sleep(_POLL_S)
        logger.info("a modifier is held down; it is released for what is typed")

    def portions(self, text: str) -> list[str]:
        """Cut a text so that there are keys enough for each part."""
        known, spare = self._look()
        # One half for this portion, the other still holds what windows may be busy with.
        n_each = max(1, (len(spare) + len(self._lent)) // 2)
        return portions(text, known.__contains__, n_each)

    async def lend(self, text: str) -> None:
        """See that there is a key for each character of a portion.

        Raises:
            ToolError: there is not a single spare key.
        """
        known, spare = self._look()
        wanted = [one for one in dict.fromkeys(text) if one not in known]
        needed = set(text)
        for key, character in list(self._lent.items()):
            if character in needed:  # used again: it is the last to be taken away
                self._lent[key] = self._lent.pop(key)
        missing = [one for one in wanted if one not in self._lent.values()]
        if not missing:
            return
        keys = spare + [key for key, character in self._lent.items() if character not in needed]
        if len(keys) < len(missing):
            raise ToolError("the keyboard has no spare key for what it lacks")
        with _telling():
            for key, character in zip(keys, missing, strict=False):
                self._give(key, [keysym_of(character)] * 2)
                self._lent.pop(key, None)
                self._lent[key] = character
            self._sync()
        await asyncio.sleep(_SETTLE_S)

    def take_back(self) -> None:
        """Have the spare keys spare again."""
        for key in self._lent:
            self._give(key, [0])
        self._lent.clear()
        self._sync()

    def _look(self) -> tuple[set[str], list[int]]:
        """The characters that have a key which was not lent, and the keys that have nothing."""
        with _telling():
            mapping = self._connection.core.GetKeyboardMapping(self._first, self._n_keys).reply()
            modifiers = self._connection.core.GetModifierMapping().reply()
        width = mapping.keysyms_per_keycode
        symbols = list(mapping.keysyms)
        rows = {self._first + i: symbols[i * width : (i + 1) * width] for i in range(self._n_keys)}
        # A layout that was chosen since has overwritten what was lent.
        self._lent = {
            key: character
            for key, character in self._lent.items()
            if rows[key][0] == keysym_of(character)
        }
        own = [row for key, row in rows.items() if key not in self._lent]
        known = {self._character(symbol) for row in own for symbol in row}
        taken = {*modifiers.keycodes, *self._lent}
        empty = [key for key, row in rows.items() if not any(row) and key not in taken]
        return known, empty[: max(0, len(empty) - _KEPT_FOR_OTHERS)]

    def _give(self, key: int, symbols: list[int]) -> None:
        self._connection.core.ChangeKeyboardMapping(1, key, len(symbols), symbols)

    def _sync(self) -> None:
        """Wait until the server has done all that."""
        self._connection.core.GetInputFocus().reply()


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except (xcffib.ConnectionException, xcffib.XcffibException) as error:
        raise DesktopGoneError("the X display does not answer any more") from error


def _character_finder() -> Callable[[int], str]:
    """What tells the character of a keysym; without libxkbcommon, those that need no table."""
    name = ctypes.util.find_library("xkbcommon")
    if name is None:
        return _character_without_table
    to_code = ctypes.CDLL(name).xkb_keysym_to_utf32
    to_code.argtypes, to_code.restype = [ctypes.c_uint32], ctypes.c_uint32
    return lambda symbol: chr(to_code(symbol))


def _character_without_table(symbol: int) -> str:
    if symbol & 0xFF00_0000 == _UNICODE:
        return chr(symbol & 0x00FF_FFFF)
    return chr(symbol) if symbol <= 0xFF else ""
