"""Text through the clipboard: offered, pasted with a key, and what was there before put back.

Graphical programs paste the clipboard with Shift+Insert, terminals the primary selection; so both
hold the text for that moment. What was there is put back in one of its forms: text if it had that,
else the first that it had (an image, say).
"""

import abc
import asyncio
import contextlib
import logging
import os
import re
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import IO, Final, Literal, TypeAlias

from streamasr.dictation.tools import ToolError, end_tool, run_tool, start_tool

logger = logging.getLogger(__name__)

Selection: TypeAlias = Literal["clipboard", "primary"]
SELECTIONS: Final[tuple[Selection, ...]] = ("clipboard", "primary")

_TEXT_TYPES: Final = ("text/plain;charset=utf-8", "UTF8_STRING", "text/plain", "STRING", "TEXT")
_OF_THE_PROTOCOL: Final = frozenset({"TARGETS", "TIMESTAMP", "MULTIPLE", "SAVE_TARGETS", "DELETE"})

_POLL_S: Final = 0.02
_LONGEST_PASTE_S: Final = 2.0
"""A window that has not asked for the text by then does not paste."""
_SETTLED_S: Final = 0.15
"""After the last request: some windows ask several times."""
_BLIND_PASTE_S: Final = 0.5
"""Waited where nobody tells whether the text has been asked for."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a selection holds."""

    type: str
    data: bytes


class Clipboard(abc.ABC):
    """The desktop's selections, through one of the programs that own them for us."""

    name: str

    @abc.abstractmethod
    async def read(self, selection: Selection) -> Held | None:
        """What is there; None if nothing is.

        Raises:
            ToolError: it cannot be found out.
        """

    @abc.abstractmethod
    async def put(self, selection: Selection, held: Held | None) -> None:
        """Have something there that stays when we are gone.

        Raises:
            ToolError: it cannot be put there.
        """

    @abc.abstractmethod
    def offering(self, text: str) -> "contextlib.AbstractAsyncContextManager[Offer]":
        """Have a text in all selections.

        Raises:
            ToolError: it cannot be put there.
        """

    async def check(self) -> None:
        """Find out whether it works.

        Raises:
            ToolError: it does not.
        """
        await self.read("clipboard")

    @contextlib.asynccontextmanager
    async def restored(self) -> AsyncIterator[None]:
        """Put everything back at the end, whatever happens.

        What cannot be put back is told of in the log, for the text has been pasted by then.

        Raises:
            ToolError: it could not be read, and so nothing was changed.
        """
        before = {selection: await self.read(selection) for selection in SELECTIONS}
        try:
            yield
        finally:
            putting = (self.put(selection, held) for selection, held in before.items())
            for failure in await asyncio.shield(asyncio.gather(*putting, return_exceptions=True)):
                if failure is not None:
                    logger.error("what the clipboard held is lost: %s", failure)


class Offer(abc.ABC):
    """A text that can be pasted now."""

    @abc.abstractmethod
    async def wait_until_pasted(self) -> None:
        """Wait until the window that a key was pressed in has got it.

        Raises:
            ToolError: it will not, as far as that can be told.
        """


class _Blind(Offer):
    async def wait_until_pasted(self) -> None:
        await asyncio.sleep(_BLIND_PASTE_S)


def best_type(offered: Sequence[str]) -> str | None:
    """The form in which something is kept that comes in several."""
    for wanted in _TEXT_TYPES:
        if wanted in offered:
            return wanted
    others = [name for name in offered if name not in _OF_THE_PROTOCOL]
    return next((name for name in others if "/" in name), None)


class WlClipboard(Clipboard):
    """For Wayland."""

    name = "wl-copy"

    async def read(self, selection: Selection) -> Held | None:
        """See `Clipboard.read`."""
        try:
            types = (await self._paste(selection, "--list-types")).decode().split("\n")
        except ToolError as error:
            if _IS_EMPTY.search(str(error)):
                return None
            raise
        kind = best_type(types)
        if kind is None:
            return None
        return Held(kind, await self._paste(selection, "--no-newline", "--type", kind))

    async def put(self, selection: Selection, held: Held | None) -> None:
        """See `Clipboard.put`."""
        chosen = _WL_OPTIONS[selection]
        if held is None:
            await run_tool(["wl-copy", *chosen, "--clear"])
        else:
            await run_tool(["wl-copy", *chosen, "--type", held.type], held.data)

    @contextlib.asynccontextmanager
    async def offering(self, text: str) -> AsyncIterator[Offer]:
        """See `Clipboard.offering`."""
        for selection in SELECTIONS:
            await self.put(selection, Held(_TEXT_TYPES[0], text.encode()))
        yield _Blind()

    async def _paste(self, selection: Selection, *options: str) -> bytes:
        return await run_tool(["wl-paste", *_WL_OPTIONS[selection], *options])


_IS_EMPTY = re.compile("nothing is copied|no selection|no suitable type", re.IGNORECASE)
_WL_OPTIONS: Final[dict[Selection, list[str]]] = {"clipboard": [], "primary": ["--primary"]}


class Xclip(Clipboard):
    """For X11; it tells when its text has been asked for."""

    name = "xclip"

    async def check(self) -> None:
        """See `Clipboard.check`."""
        await run_tool(["xclip", "-version"])
        await self.read("clipboard")

    async def read(self, selection: Selection) -> Held | None:
        """See `Clipboard.read`."""
        try:
            types = (await self._out(selection, "TARGETS")).decode(errors="replace").split("\n")
            kind = best_type(types)
            return None if kind is None else Held(kind, await self._out(selection, kind))
        except ToolError as error:
            if "not available" in str(error):
                return None
            raise

    async def put(self, selection: Selection, held: Held | None) -> None:
        """See `Clipboard.put`."""
        if held is None:  # it cannot say that there is nothing; an empty text is as near as it gets
            held = Held("UTF8_STRING", b"")
        await run_tool(["xclip", "-i", "-selection", selection, "-target", held.type], held.data)

    @contextlib.asynccontextmanager
    async def offering(self, text: str) -> AsyncIterator[Offer]:
        """See `Clipboard.offering`."""
        async with AsyncExitStack() as stack:
            logs = []
            for selection in SELECTIONS:
                log = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
                argv = ["xclip", "-verbose", "-i", "-selection", selection, "-target", _X_TEXT]
                process = await start_tool(argv, text.encode(), log)
                stack.push_async_callback(end_tool, process)
                logs.append(log)
            offer = _Counted(logs)
            await offer.wait_until_offered()
            yield offer

    async def _out(self, selection: Selection, kind: str) -> bytes:
        return await run_tool(["xclip", "-o", "-selection", selection, "-target", kind])


_X_TEXT: Final = "UTF8_STRING"


class _Counted(Offer):
    """Counts the requests that xclip says it waits for."""

    def __init__(self, logs: Sequence[IO[bytes]]) -> None:
        self._logs = logs
        self._n_before = 0

    async def wait_until_offered(self) -> None:
        for _ in range(round(_LONGEST_PASTE_S / _POLL_S)):
            if all(self._n_waiting(log) for log in self._logs):
                self._n_before = self._n_seen
                return
            await asyncio.sleep(_POLL_S)
        raise ToolError("xclip does not take the text")

    async def wait_until_pasted(self) -> None:
        n_before, quiet = self._n_before, 0.0
        for _ in range(round(_LONGEST_PASTE_S / _POLL_S)):
            await asyncio.sleep(_POLL_S)
            n_seen = self._n_seen
            quiet = 0.0 if n_seen > n_before else quiet + _POLL_S
            n_before = n_seen
            if n_seen > self._n_before and quiet >= _SETTLED_S:
                return
        if n_before == self._n_before:
            raise ToolError("the window has not asked for the text; does another key paste there?")

    @property
    def _n_seen(self) -> int:
        return sum(self._n_waiting(log) for log in self._logs)

    @staticmethod
    def _n_waiting(log: IO[bytes]) -> int:
        # xclip writes where the file's position is, which is ours as well: it must not be moved.
        return os.pread(log.fileno(), 1 << 20, 0).count(b"selection request number")


class Xsel(Clipboard):
    """For X11 where there is no xclip; it knows texts alone."""

    name = "xsel"

    async def read(self, selection: Selection) -> Held | None:
        """See `Clipboard.read`."""
        data = await run_tool(["xsel", f"--{selection}", "--output"])
        return Held(_X_TEXT, data) if data else None

    async def put(self, selection: Selection, held: Held | None) -> None:
        """See `Clipboard.put`."""
        if held is None:
            await run_tool(["xsel", f"--{selection}", "--clear"])
        else:
            await run_tool(["xsel", f"--{selection}", "--input"], held.data)

    @contextlib.asynccontextmanager
    async def offering(self, text: str) -> AsyncIterator[Offer]:
        """See `Clipboard.offering`."""
        for selection in SELECTIONS:
            await self.put(selection, Held(_X_TEXT, text.encode()))
        yield _Blind()
