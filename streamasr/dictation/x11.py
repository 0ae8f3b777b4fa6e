"""Keyboard of an X display: modifiers held down, and keys for characters that have none.

xdotool types a character that the layout lacks by mapping a spare key to it for the moment of the
press. Windows look up the key later, often after it has been mapped to the next character, and then
show the wrong one. So before typing, this module maps spare keys to all characters of a portion
that lack one, and keeps them mapped until the keys are needed for other characters; xdotool finds
them in the layout like any other character.
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
"""Time after which xdotool releases modifiers that are still held down."""

_SETTLE_S: Final = 0.06
"""Time that windows need to load a changed mapping."""

_KEPT_FOR_OTHERS: Final = 2
"""Spare keys left for other programs that remap keys."""

_MODIFIERS: Final = (
    xcffib.xproto.KeyButMask.Shift
    | xcffib.xproto.KeyButMask.Control
    | xcffib.xproto.KeyButMask.Mod1  # Alt
    | xcffib.xproto.KeyButMask.Mod3
    | xcffib.xproto.KeyButMask.Mod4  # Super
    | xcffib.xproto.KeyButMask.Mod5  # AltGr
)
"""Modifiers that turn text into shortcuts; the locks do not."""

_UNICODE: Final = 0x0100_0000
"""Offset of keysyms that are code points plus this value."""


def keysym_of(character: str) -> int:
    """Return the keysym of a character; in Latin-1 it equals the code point.

    Source: X Window System Protocol, appendix A.
    """
    code = ord(character)
    return code if 0x20 <= code <= 0x7E or 0xA0 <= code <= 0xFF else _UNICODE | code


def portions(text: str, is_known: Callable[[str], bool], n_spare: int) -> list[str]:
    """Divide a text into parts with at most `n_spare` different unknown characters each."""
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
    """Keyboard of a display."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        setup = connection.get_setup()
        self._first = setup.min_keycode
        self._n_keys = setup.max_keycode - setup.min_keycode + 1
        self._root = setup.roots[0].root
        self._mapped: dict[int, str] = {}  # by keycode, the least recently used first
        self._character = _character_finder()

    @classmethod
    @contextlib.contextmanager
    def of_display(cls, display: str | None = None) -> "Iterator[Keyboard]":
        """Connect to a display; at the end, restore the spare keys.

        Raises:
            ToolError: the display cannot be reached.
        """
        try:
            connect: Any = xcffib.connect  # untyped
            connection = connect(display)
        except xcffib.ConnectionException as error:
            raise ToolError(
                "cannot connect to the X display; check the variable DISPLAY.", code="no_display"
            ) from error
        keyboard = cls(connection)
        try:
            yield keyboard
        finally:
            with contextlib.suppress(xcffib.ConnectionException):
                keyboard.unmap_keys()
                connection.disconnect()

    def holds_modifiers(self) -> bool:
        """Return whether a modifier such as Shift is held down.

        Raises:
            DesktopGoneError: the X server closed the connection.
        """
        with _reporting_loss():
            pointer = self._connection.core.QueryPointer(self._root).reply()
        return bool(pointer.mask & _MODIFIERS)

    def focus(self) -> int:
        """Return the window that has the focus.

        Raises:
            DesktopGoneError: the X server closed the connection.
        """
        with _reporting_loss():
            return int(self._connection.core.GetInputFocus().reply().focus)

    async def wait_until_released(self) -> None:
        """Wait until modifiers are released, but for a limited time."""
        for _ in range(round(_RELEASE_TIMEOUT_S / _POLL_S)):
            if not self.holds_modifiers():
                return
            await asyncio.sleep(_POLL_S)
        logger.info(
            "a modifier is held down for more than %g s; xdotool releases it while typing",
            _RELEASE_TIMEOUT_S,
        )

    def portions(self, text: str) -> list[str]:
        """Divide a text so that there are enough spare keys for each part."""
        known, spare = self._read_mapping()
        # Half of the keys for this portion; windows may still be looking up the other half.
        n_each = max(1, (len(spare) + len(self._mapped)) // 2)
        return portions(text, known.__contains__, n_each)

    async def map_keys(self, text: str) -> None:
        """Map a spare key to each character of a portion that lacks a key.

        Raises:
            ToolError: the keyboard has too few spare keys.
            DesktopGoneError: the X server closed the connection.
        """
        known, spare = self._read_mapping()
        unknown = [char for char in dict.fromkeys(text) if char not in known]
        needed = set(text)
        for key, character in list(self._mapped.items()):
            if character in needed:  # used again, so it is remapped last
                self._mapped[key] = self._mapped.pop(key)
        missing = [char for char in unknown if char not in self._mapped.values()]
        if not missing:
            return
        keys = spare + [key for key, character in self._mapped.items() if character not in needed]
        if len(keys) < len(missing):
            raise ToolError(
                f"the layout has {len(keys)} spare keys for {len(missing)} characters to add;"
                " choose --output paste, or another layout.",
                code="no_spare_keys",
            )
        with _reporting_loss():
            for key, character in zip(keys, missing, strict=False):
                self._assign(key, [keysym_of(character)] * 2)
                self._mapped.pop(key, None)
                self._mapped[key] = character
            self._sync()
        await asyncio.sleep(_SETTLE_S)

    def unmap_keys(self) -> None:
        """Restore the spare keys."""
        for key in self._mapped:
            self._assign(key, [0])
        self._mapped.clear()
        self._sync()

    def _read_mapping(self) -> tuple[set[str], list[int]]:
        """Return the characters of the layout's own keys, and the keycodes without a character."""
        with _reporting_loss():
            mapping = self._connection.core.GetKeyboardMapping(self._first, self._n_keys).reply()
            modifiers = self._connection.core.GetModifierMapping().reply()
        width = mapping.keysyms_per_keycode
        symbols = list(mapping.keysyms)
        rows = {self._first + i: symbols[i * width : (i + 1) * width] for i in range(self._n_keys)}
        # A layout chosen meanwhile has overwritten the mapped keys.
        self._mapped = {
            key: character
            for key, character in self._mapped.items()
            if rows[key][0] == keysym_of(character)
        }
        rows_of_layout = [row for key, row in rows.items() if key not in self._mapped]
        known = {self._character(symbol) for row in rows_of_layout for symbol in row}
        taken = {*modifiers.keycodes, *self._mapped}
        empty = [key for key, row in rows.items() if not any(row) and key not in taken]
        return known, empty[: max(0, len(empty) - _KEPT_FOR_OTHERS)]

    def _assign(self, key: int, symbols: list[int]) -> None:
        self._connection.core.ChangeKeyboardMapping(1, key, len(symbols), symbols)

    def _sync(self) -> None:
        """Wait until the server has processed all requests."""
        self._connection.core.GetInputFocus().reply()


@contextlib.contextmanager
def _reporting_loss() -> Iterator[None]:
    """Convert errors of the connection to `DesktopGoneError`."""
    try:
        yield
    except (xcffib.ConnectionException, xcffib.XcffibException) as error:
        raise DesktopGoneError(
            "the X display does not answer any more; start dictation again in the new session.",
            code="display_gone",
        ) from error


def _character_finder() -> Callable[[int], str]:
    """Return a function from keysym to character; without libxkbcommon, one without tables."""
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
