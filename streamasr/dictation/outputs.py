"""Outputs for text (pressed keys, the pasted clipboard, stdout) and a chain of outputs.

A text goes to the first output of the chain that works and is certain to write it correctly. A
failed output is reported and avoided for a while; the next output continues with the same piece,
because repeated text is a nuisance, but missing text is a loss.
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
"""Characters typed in one run of a program; a dictation can be cancelled between two runs."""

AVOIDED_S: Final = 60.0
"""Time for which a failed output is avoided while another one works."""

PASTE_KEY: Final = "shift+Insert"
"""Paste key that terminals, editors and all other windows accept, on any layout."""


class Output(abc.ABC):
    """Method of writing text into a window."""

    name: str

    @abc.abstractmethod
    async def check(self) -> None:
        """Test whether the output works here, without typing anything.

        Raises:
            ToolError: the output does not work on this desktop.
        """

    def can_write(self, text: str) -> bool:  # noqa: ARG002 - most can
        """Return whether the output is certain to write exactly this text."""
        return True

    def cut(self, text: str) -> tuple[str, str]:
        """Divide a text into the piece that is written in one go, and the rest."""
        return text, ""

    @abc.abstractmethod
    async def write(self, piece: str) -> None:
        """Write a piece as returned by `cut`.

        Raises:
            ToolError: the piece may not have been written.
        """

    @abc.abstractmethod
    async def delete(self, n_characters: int) -> None:
        """Delete characters before the caret.

        Raises:
            ToolError: the characters may not have been deleted.
        """


class Typing(Output):
    """Output that presses keys."""

    def __init__(self, keyboard: Keyboard, *, newline: str = RETURN) -> None:
        """Type on a keyboard.

        Args:
            keyboard: keyboard to type on.
            newline: key that ends a line; chat programs may need `shift+Return`.
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
        return self._keyboard.can_type("".join(char for char in text if char not in self._keys))

    def cut(self, text: str) -> tuple[str, str]:
        """See `Output.cut`: a part of a line, or consecutive line ends or tabs."""
        if text[0] in self._keys:
            rest = text.lstrip(text[0])
            return text[: len(text) - len(rest)], rest
        piece = pieces("".join(takewhile(lambda char: char not in self._keys, text)), PIECE)[0]
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
    """Output that pastes the clipboard, and restores its content afterwards."""

    name = "paste"

    def __init__(self, clipboard: Clipboard, keyboard: Keyboard, *, key: str = PASTE_KEY) -> None:
        """Paste with a key.

        Args:
            clipboard: clipboard of the desktop.
            keyboard: keyboard that presses the key.
            key: key that pastes.
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
            # The key may already be pressed: the window must still receive this text, not the old.
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
    """Output to stdout, for pipes and for a preview of the typed text."""

    name = "stdout"

    async def check(self) -> None:
        """See `Output.check`; stdout always works."""

    async def write(self, piece: str) -> None:
        """See `Output.write`."""
        sys.stdout.write(piece)
        sys.stdout.flush()

    async def delete(self, n_characters: int) -> None:
        """See `Output.delete`."""
        if not sys.stdout.isatty():
            raise ToolError(
                "text written to a pipe cannot be deleted; write to a terminal, or choose another"
                " output.",
                code="cannot_delete_from_pipe",
            )
        sys.stdout.write("\b \b" * n_characters)
        sys.stdout.flush()


@dataclass(slots=True)
class Chain:
    """Outputs in order of preference."""

    outputs: Sequence[Output]
    report: Callable[[str], None]
    """Shows a sentence to the user."""
    focus: Callable[[], object] | None = None
    """Returns the window that has the focus; None if it cannot be determined here."""
    clock: Callable[[], float] = field(default_factory=lambda: asyncio.get_running_loop().time)
    _avoided_until: dict[str, float] = field(default_factory=dict)

    def place(self) -> object:
        """Return the window that contains the caret; None if it cannot be determined."""
        return None if self.focus is None else self.focus()

    async def apply(self, edit: Edit) -> None:
        """Change the text before the caret.

        Raises:
            ToolError: none of the outputs could apply the edit.
        """
        if edit.delete:
            await self._delete(edit.delete)
        text = typeable(edit.text)
        while text:
            text = await self._write_some(text)

    async def _write_some(self, text: str) -> str:
        """Write the first piece of a text; return the rest."""
        failure = ToolError(
            f"none of {self.names} can type this text; install another program, or state the layout"
            " with --keyboard.",
            code="text_not_typeable",
        )
        for output in self._by_preference():
            if output.can_write(text):
                piece, rest = output.cut(text)
                try:
                    await output.write(piece)
                except ToolError as error:
                    failure = self._avoid(output, error)
                else:
                    logger.debug("%s: %d characters", output.name, len(graphemes(piece)))
                    return rest
        raise failure

    async def _delete(self, n_characters: int) -> None:
        failure = ToolError("the chain has no output", code="no_output")
        for output in self._by_preference():
            try:
                await output.delete(n_characters)
            except ToolError as error:
                failure = self._avoid(output, error)
            else:
                return
        raise failure

    def _by_preference(self) -> list[Output]:
        """Return the outputs in order, those to avoid last."""
        now = self.clock()
        return sorted(
            self.outputs, key=lambda output: self._avoided_until.get(output.name, 0) > now
        )

    def _avoid(self, output: Output, error: ToolError) -> ToolError:
        """Avoid a failed output for a while, and report the failure."""
        self._avoided_until[output.name] = self.clock() + AVOIDED_S
        why = f"{output.name}: {error}" if not str(error).startswith(output.name) else str(error)
        logger.warning("%s", why)
        self.report(why)
        return ToolError(why, code=error.code)

    @property
    def names(self) -> str:
        """Names of all outputs, for messages."""
        return ", ".join(output.name for output in self.outputs)
