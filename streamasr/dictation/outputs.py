"""Where text goes: keys pressed one by one, the clipboard pasted, or stdout; and the chain of them.

The first of the chain that works and is sure to get this text right has it. One that fails says so
in a sentence and rests for a while; the next goes on with the same piece, for text that comes twice
is a nuisance, and text that never comes a loss.
"""

import abc
import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

from streamasr.dictation.clipboard import Clipboard
from streamasr.dictation.keyboards import BACKSPACE, RETURN, TAB, Keyboard
from streamasr.dictation.tools import ToolError
from streamasr.writing.edits import Edit, graphemes, pieces, typeable

logger = logging.getLogger(__name__)

PIECE: Final = 50
"""Characters typed in one run of a program; between two of them a dictation can be cancelled."""

REST_S: Final = 60.0
"""For which one that failed is not tried again, as long as there is another."""

PASTE_KEY: Final = "shift+Insert"
"""The only one that terminals, editors and all other windows know, whatever the layout."""


class Output(abc.ABC):
    """A way to get text into a window."""

    name: str

    @abc.abstractmethod
    async def check(self) -> None:
        """Find out whether it works here, without typing anything.

        Raises:
            ToolError: it does not.
        """

    def can_write(self, text: str) -> bool:  # noqa: ARG002 - most can
        """Whether it is sure to write exactly this."""
        return True

    def cut(self, text: str) -> tuple[str, str]:
        """What of a text it writes in one go, and the rest."""
        return text, ""

    @abc.abstractmethod
    async def write(self, piece: str) -> None:
        """Write a piece as `cut` gives it.

        Raises:
            ToolError: it may not have been written.
        """

    @abc.abstractmethod
    async def delete(self, n_characters: int) -> None:
        """Take characters away before the caret.

        Raises:
            ToolError: they may still be there.
        """


class Typing(Output):
    """Presses keys."""

    def __init__(self, keyboard: Keyboard, *, newline: str = RETURN) -> None:
        """Type.

        Args:
            keyboard: with which.
            newline: the key for the end of a line; chats may want `shift+Return`.
        """
        self.name = keyboard.name
        self._keyboard = keyboard
        self._keys = {"\n": newline, "\t": TAB}

    async def check(self) -> None:
        """See `Output.check`."""
        await self._keyboard.check()
        for key in self._keys.values():
            await self._keyboard.check_key(key)

    def can_write(self, text: str) -> bool:
        """See `Output.can_write`."""
        return self._keyboard.can_type("".join(one for one in text if one not in self._keys))

    def cut(self, text: str) -> tuple[str, str]:
        """A part of a line, or one key several times: line ends, or tabs."""
        if text[0] in self._keys:
            rest = text.lstrip(text[0])
            return text[: len(text) - len(rest)], rest
        piece = pieces("".join(takewhile(lambda one: one not in self._keys, text)), PIECE)[0]
        return piece, text[len(piece) :]

    async def write(self, piece: str) -> None:
        """See `Output.write`."""
        if piece[0] in self._keys:
            await self._keyboard.press(self._keys[piece[0]], len(piece))
        else:
            await self._keyboard.type(piece)

    async def delete(self, n_characters: int) -> None:
        """See `Output.delete`."""
        await self._keyboard.press(BACKSPACE, n_characters)


class Pasting(Output):
    """Pastes the clipboard, and puts back what was there."""

    name = "paste"

    def __init__(self, clipboard: Clipboard, keyboard: Keyboard, *, key: str = PASTE_KEY) -> None:
        """Paste.

        Args:
            clipboard: of the desktop.
            keyboard: that presses the key.
            key: that pastes.
        """
        self._clipboard = clipboard
        self._keyboard = keyboard
        self._key = key

    async def check(self) -> None:
        """See `Output.check`."""
        await self._keyboard.check()
        await self._keyboard.check_key(self._key)
        await self._clipboard.check()

    async def write(self, piece: str) -> None:
        """See `Output.write`."""
        pasting = asyncio.create_task(self._paste(piece))
        try:
            await asyncio.shield(pasting)
        except asyncio.CancelledError:
            # The key may have been pressed: what the window gets then is to be this text yet.
            await asyncio.wait([pasting])
            raise

    async def _paste(self, piece: str) -> None:
        async with self._clipboard.restored(), self._clipboard.offering(piece) as offer:
            await self._keyboard.press(self._key)
            await offer.wait_until_pasted()

    async def delete(self, n_characters: int) -> None:
        """See `Output.delete`."""
        await self._keyboard.press(BACKSPACE, n_characters)


class Printing(Output):
    """Writes to stdout, for pipes and for whoever wants to see what would be typed."""

    name = "stdout"

    async def check(self) -> None:
        """It always works."""

    async def write(self, piece: str) -> None:
        """See `Output.write`."""
        sys.stdout.write(piece)
        sys.stdout.flush()

    async def delete(self, n_characters: int) -> None:
        """See `Output.delete`."""
        if not sys.stdout.isatty():
            raise ToolError("what has been written to a pipe cannot be taken back")
        sys.stdout.write("\b \b" * n_characters)
        sys.stdout.flush()


@dataclass(slots=True)
class Chain:
    """Outputs, the best first."""

    outputs: Sequence[Output]
    report: Callable[[str], None]
    """Takes a sentence for people."""
    focus: Callable[[], object] | None = None
    """Tells the window that has the focus."""
    clock: Callable[[], float] = field(default_factory=lambda: asyncio.get_running_loop().time)
    _rests_until: dict[str, float] = field(default_factory=dict)

    def place(self) -> object:
        """Where the caret is, as far as that can be told: the same in the same window."""
        return None if self.focus is None else self.focus()

    async def apply(self, edit: Edit) -> None:
        """Change the text before the caret.

        Raises:
            ToolError: no output could.
        """
        if edit.delete:
            await self._delete(edit.delete)
        text = typeable(edit.text)
        while text:
            text = await self._write_some(text)

    async def _write_some(self, text: str) -> str:
        """Write the first piece of a text; the rest."""
        why = f"none of {self.names} can type this text"
        for output in self._by_preference():
            if output.can_write(text):
                piece, rest = output.cut(text)
                try:
                    await output.write(piece)
                except ToolError as error:
                    why = self._complain(output, error)
                else:
                    logger.debug("%s: %d characters", output.name, len(graphemes(piece)))
                    return rest
        raise ToolError(why)

    async def _delete(self, n_characters: int) -> None:
        why = "there is no output"
        for output in self._by_preference():
            try:
                await output.delete(n_characters)
            except ToolError as error:
                why = self._complain(output, error)
            else:
                return
        raise ToolError(why)

    def _by_preference(self) -> list[Output]:
        """Those that rest come last."""
        now = self.clock()
        return sorted(self.outputs, key=lambda output: self._rests_until.get(output.name, 0) > now)

    def _complain(self, output: Output, error: ToolError) -> str:
        self._rests_until[output.name] = self.clock() + REST_S
        why = f"{output.name}: {error}" if not str(error).startswith(output.name) else str(error)
        logger.warning("%s", why)
        self.report(why)
        return why

    @property
    def names(self) -> str:
        """All of them, for people."""
        return ", ".join(output.name for output in self.outputs)
