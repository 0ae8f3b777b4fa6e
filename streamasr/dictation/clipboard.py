"""Output through the clipboard: offer a text, press the paste key, restore the old content.

With Shift+Insert, graphical programs paste the clipboard and terminals paste the primary selection,
so both hold the text for that moment. The old content is restored in one of its types: text if it
was offered as text, otherwise the first type offered (an image type, for example).
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
_PROTOCOL_TARGETS: Final = frozenset({"TARGETS", "TIMESTAMP", "MULTIPLE", "SAVE_TARGETS", "DELETE"})

_POLL_S: Final = 0.02
_LONGEST_PASTE_S: Final = 2.0
"""Time after which a window that has not requested the text is assumed not to paste."""
_SETTLED_S: Final = 0.15
"""Quiet time required after the last request; some windows send several."""
_BLIND_PASTE_S: Final = 0.5
"""Wait after the paste key where the program does not report requests for the text."""


@dataclass(frozen=True, slots=True)
class Content:
    """Content of a selection."""

    type: str
    """MIME type, or name of an X11 target."""
    data: bytes


class Clipboard(abc.ABC):
    """Access to the selections of the desktop, through a command-line program that owns them."""

    name: str

    @abc.abstractmethod
    async def read(self, selection: Selection) -> Content | None:
        """Return the content of a selection; None if it is empty.

        Raises:
            ToolError: the selection cannot be read.
        """

    @abc.abstractmethod
    async def put(self, selection: Selection, content: Content | None) -> None:
        """Set the content of a selection, which remains after this process has ended.

        Raises:
            ToolError: the selection cannot be set.
        """

    @abc.abstractmethod
    def offering(self, text: str) -> "contextlib.AbstractAsyncContextManager[Offer]":
        """Hold a text in all selections while the context is open.

        Raises:
            ToolError: a selection cannot be set.
        """

    async def check(self) -> None:
        """Test whether the clipboard can be used.

        Raises:
            ToolError: the clipboard cannot be read.
        """
        await self.read("clipboard")

    @contextlib.asynccontextmanager
    async def restored(self) -> AsyncIterator[None]:
        """Restore the content of all selections when the context ends, also after an error.

        A failure to restore is only logged, because the text has been pasted by then.

        Raises:
            ToolError: a selection could not be read; nothing was changed.
        """
        before = {selection: await self.read(selection) for selection in SELECTIONS}
        try:
            yield
        finally:
            putting = (self.put(selection, content) for selection, content in before.items())
            for failure in await asyncio.shield(asyncio.gather(*putting, return_exceptions=True)):
                if failure is not None:
                    logger.error("cannot restore the content of the clipboard: %s", failure)


class Offer(abc.ABC):
    """Text that can be pasted now."""

    @abc.abstractmethod
    async def wait_until_pasted(self) -> None:
        """Wait until the window that received the paste key has received the text.

        Raises:
            ToolError: the window did not request the text in time.
        """


class _UnconfirmedOffer(Offer):
    """Offer through a program that does not report whether the text was requested."""

    async def wait_until_pasted(self) -> None:
        await asyncio.sleep(_BLIND_PASTE_S)


def best_type(offered: Sequence[str]) -> str | None:
    """Choose the type to keep of a content that is offered in several; None if none is usable."""
    for preferred in _TEXT_TYPES:
        if preferred in offered:
            return preferred
    others = [name for name in offered if name not in _PROTOCOL_TARGETS]
    return next((name for name in others if "/" in name), None)


class WlClipboard(Clipboard):
    """Clipboard of Wayland, through wl-clipboard."""

    name = "wl-copy"

    async def read(self, selection: Selection) -> Content | None:
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
        return Content(kind, await self._paste(selection, "--no-newline", "--type", kind))

    async def put(self, selection: Selection, content: Content | None) -> None:
        """See `Clipboard.put`."""
        chosen = _WL_OPTIONS[selection]
        if content is None:
            await run_tool(["wl-copy", *chosen, "--clear"])
        else:
            await run_tool(["wl-copy", *chosen, "--type", content.type], content.data)

    @contextlib.asynccontextmanager
    async def offering(self, text: str) -> AsyncIterator[Offer]:
        """See `Clipboard.offering`."""
        for selection in SELECTIONS:
            await self.put(selection, Content(_TEXT_TYPES[0], text.encode()))
        yield _UnconfirmedOffer()

    async def _paste(self, selection: Selection, *options: str) -> bytes:
        return await run_tool(["wl-paste", *_WL_OPTIONS[selection], *options])


_IS_EMPTY = re.compile("nothing is copied|no selection|no suitable type", re.IGNORECASE)
_WL_OPTIONS: Final[dict[Selection, list[str]]] = {"clipboard": [], "primary": ["--primary"]}


class Xclip(Clipboard):
    """Clipboard of X11, through xclip, which reports when a window requests the text."""

    name = "xclip"

    async def check(self) -> None:
        """See `Clipboard.check`."""
        await run_tool(["xclip", "-version"])
        await self.read("clipboard")

    async def read(self, selection: Selection) -> Content | None:
        """See `Clipboard.read`."""
        try:
            types = (await self._out(selection, "TARGETS")).decode(errors="replace").split("\n")
            kind = best_type(types)
            return None if kind is None else Content(kind, await self._out(selection, kind))
        except ToolError as error:
            if "not available" in str(error):
                return None
            raise

    async def put(self, selection: Selection, content: Content | None) -> None:
        """See `Clipboard.put`."""
        if content is None:  # xclip cannot clear a selection; an empty text comes closest
            content = Content("UTF8_STRING", b"")
        await run_tool(
            ["xclip", "-i", "-selection", selection, "-target", content.type], content.data
        )

    @contextlib.asynccontextmanager
    async def offering(self, text: str) -> AsyncIterator[Offer]:
        """See `Clipboard.offering`."""
        async with AsyncExitStack() as stack:
            logs = []
            for selection in SELECTIONS:
                log = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes the file
                argv = ["xclip", "-verbose", "-i", "-selection", selection, "-target", _X_TEXT]
                process = await start_tool(argv, text.encode(), log)
                stack.push_async_callback(end_tool, process)
                logs.append(log)
            offer = _CountedOffer(logs)
            await offer.wait_until_offered()
            yield offer

    async def _out(self, selection: Selection, kind: str) -> bytes:
        return await run_tool(["xclip", "-o", "-selection", selection, "-target", kind])


_X_TEXT: Final = "UTF8_STRING"


class _CountedOffer(Offer):
    """Offer that counts the requests which xclip reports in its log."""

    def __init__(self, logs: Sequence[IO[bytes]]) -> None:
        self._logs = logs
        self._n_before = 0

    async def wait_until_offered(self) -> None:
        for _ in range(round(_LONGEST_PASTE_S / _POLL_S)):
            if all(self._n_waiting(log) for log in self._logs):
                self._n_before = self._n_seen
                return
            await asyncio.sleep(_POLL_S)
        raise ToolError(
            f"xclip did not offer the text within {_LONGEST_PASTE_S:g} s; check that the X display"
            " responds.",
            code="clipboard_not_offered",
        )

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
            raise ToolError(
                "the window did not request the text after the paste key; choose its paste key with"
                " --paste-key.",
                code="paste_not_requested",
            )

    @property
    def _n_seen(self) -> int:
        return sum(self._n_waiting(log) for log in self._logs)

    @staticmethod
    def _n_waiting(log: IO[bytes]) -> int:
        # The file position is shared with xclip, which writes there, so reading must not move it.
        return os.pread(log.fileno(), 1 << 20, 0).count(b"selection request number")


class Xsel(Clipboard):
    """Clipboard of X11, through xsel, where xclip is not installed; supports text only."""

    name = "xsel"

    async def read(self, selection: Selection) -> Content | None:
        """See `Clipboard.read`."""
        data = await run_tool(["xsel", f"--{selection}", "--output"])
        return Content(_X_TEXT, data) if data else None

    async def put(self, selection: Selection, content: Content | None) -> None:
        """See `Clipboard.put`."""
        if content is None:
            await run_tool(["xsel", f"--{selection}", "--clear"])
        else:
            await run_tool(["xsel", f"--{selection}", "--input"], content.data)
            await self._wait_until_owned(selection, content.data)

    @contextlib.asynccontextmanager
    async def offering(self, text: str) -> AsyncIterator[Offer]:
        """See `Clipboard.offering`."""
        for selection in SELECTIONS:
            await self.put(selection, Content(_X_TEXT, text.encode()))
        yield _UnconfirmedOffer()

    async def _wait_until_owned(self, selection: Selection, data: bytes) -> None:
        """Wait until a read returns the data: xsel exits before its child owns the selection."""
        if not data:
            return
        for _ in range(round(_LONGEST_PASTE_S / _POLL_S)):
            content = await self.read(selection)
            if content is not None and content.data == data:
                return
            await asyncio.sleep(_POLL_S)
        raise ToolError(
            f"xsel did not set the {selection} selection within {_LONGEST_PASTE_S:g} s; check that"
            " the X display responds.",
            code="clipboard_not_offered",
        )
