"""The sessions of a daemon: opened, left, found again, and ended when nobody comes back."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from streamasr.core.options import SessionOptions
from streamasr.host.live_session import LiveSession
from streamasr.pipeline.stream import Beginning
from streamasr.protocols import v1

logger = logging.getLogger(__name__)


class Connection(Protocol):
    """What sends audio to a session."""

    async def is_alive(self, timeout_s: float) -> bool:
        """Whether the other end answers within a time."""

    def abort(self) -> None:
        """End it without ceremony; `SessionRegistry.detach` follows."""


OpenLive = Callable[[str, SessionOptions, Beginning], LiveSession]
"""Make a live session of this name."""


@dataclass(slots=True)
class _Entry:
    live: LiveSession
    watch: "asyncio.Task[None]"
    owner: Connection | None = None
    is_left_for_good: bool = False
    left: asyncio.Event = field(default_factory=asyncio.Event)  # the owner has left or come back
    is_daemons_own: bool = False
    heard: asyncio.Event = field(default_factory=asyncio.Event)  # its end has reached the client


class SessionRegistry:
    """All sessions by their names. Belongs to the event loop's thread."""

    def __init__(
        self,
        open_live: OpenLive,
        *,
        max_sessions: int,
        resume_s: float,
        on_end: Callable[[str], None],
        keeps_ends: Callable[[], bool] = lambda: True,
        old_connection_s: float = 3.0,
    ) -> None:
        """Begin with none.

        Args:
            open_live: makes one.
            max_sessions: how many clients may have at once; the daemon's own is not counted.
            resume_s: how long a session waits for a client that lost its connection.
            on_end: called with the name of a session that nobody can resume any more.
            keeps_ends: whether what is over may stay for those who come late.
            old_connection_s: how long an old connection may take to show that it is alive, when a
                new one wants its place.
        """
        self.max_sessions = max_sessions
        self.resume_s = resume_s
        self._open_live = open_live
        self._on_end = on_end
        self._keeps_ends = keeps_ends
        self._old_connection_s = old_connection_s
        self._entries: dict[str, _Entry] = {}

    def __iter__(self) -> Iterator[LiveSession]:
        return iter([entry.live for entry in self._entries.values()])

    def __len__(self) -> int:
        return len(self._entries)

    def open(
        self,
        name: str,
        wishes: SessionOptions,
        beginning: Beginning | None = None,
        *,
        is_daemons_own: bool = False,
    ) -> LiveSession:
        """Begin a session, or go on with one after a restart; nobody has its connection yet.

        Raises:
            RefusalError: there is no room for one more.
        """
        is_new = not is_daemons_own and beginning is None
        if is_new and self._n_running() >= self.max_sessions:
            self._give_up_one()
        if is_new and self._n_running() >= self.max_sessions:
            raise v1.RefusalError(
                v1.ErrorCode.OVERLOADED,
                f"all {self.max_sessions} sessions are taken; try again later",
            )
        live = self._open_live(name, wishes, beginning or Beginning())
        watch = asyncio.create_task(self._watch(name), name=f"session {name}")
        self._entries[name] = _Entry(live, watch, is_daemons_own=is_daemons_own)
        logger.info("session %s is open", name)
        return live

    def find(self, name: str) -> LiveSession:
        """The session of this name.

        Raises:
            RefusalError: there is none.
        """
        return self._entry(name).live

    async def attach(self, name: str, connection: Connection) -> LiveSession:
        """Make a connection the one that sends audio.

        A connection that has broken without anybody noticing gives way to the new one.

        Raises:
            RefusalError: there is no such session, or another connection has it.
        """
        entry = self._entry(name)
        if entry.is_daemons_own:
            sentence = f"session {name} is the daemon's own; listen to it at {v1.EVENTS_PATH}"
            raise v1.RefusalError(v1.ErrorCode.SESSION_BUSY, sentence)
        while (owner := entry.owner) is not None:
            if await owner.is_alive(self._old_connection_s):
                sentence = f"another connection sends audio to session {name}"
                raise v1.RefusalError(v1.ErrorCode.SESSION_BUSY, sentence)
            logger.info("session %s: its old connection is dead", name)
            owner.abort()
            while entry.owner is owner:  # what it had sent is heard before the new one begins
                entry.left.clear()
                await entry.left.wait()
        if self._entries.get(name) is not entry:
            raise _unknown(name)
        entry.owner, entry.is_left_for_good = connection, False
        entry.left.set()
        return entry.live

    def detach(
        self, name: str, connection: Connection, *, said_goodbye: bool, has_heard_all: bool
    ) -> None:
        """The connection is gone; the session waits for another one, unless all was heard.

        Args:
            name: of the session.
            connection: that is gone.
            said_goodbye: it did not break, but was closed by a client that had enough. Its session
                waits all the same, as long as nobody else wants the room.
            has_heard_all: up to the session's end; nobody needs it any more.
        """
        entry = self._entries.get(name)
        if entry is None or entry.owner is not connection:
            return
        entry.owner, entry.is_left_for_good = None, said_goodbye
        if has_heard_all:
            entry.heard.set()
        entry.left.set()

    def finish_all(self) -> None:
        """Take no more audio anywhere; what has been heard is still recognised."""
        for entry in self._entries.values():
            entry.live.finish()

    async def wait_all_over(self) -> None:
        """Wait until every session has said its end."""
        for live in self:
            await live.is_over.wait()

    async def drop(self, name: str) -> None:
        """Forget a session that is over, whether its end has been heard or not."""
        if entry := self._entries.get(name):
            entry.heard.set()
            await self.wait_gone(name)

    async def wait_gone(self, name: str) -> None:
        """Wait until a session has been forgotten."""
        if entry := self._entries.get(name):
            await asyncio.wait([entry.watch])

    async def close(self) -> None:
        """Let go of everything; what is not over, or not heard, can be resumed after a restart."""
        for entry in self._entries.values():
            entry.watch.cancel()
            entry.live.close()
        watches = [entry.watch for entry in self._entries.values()]
        await asyncio.gather(*watches, return_exceptions=True)
        for name, entry in self._entries.items():
            is_wanted = self._keeps_ends() and not entry.heard.is_set() and not entry.is_daemons_own
            if entry.live.is_over.is_set() and not is_wanted:
                self._on_end(name)

    def _n_running(self) -> int:
        """Sessions of clients that anybody may still want to speak to or to hear from."""
        return sum(self._takes_room(entry) for entry in self._entries.values())

    @staticmethod
    def _takes_room(entry: _Entry) -> bool:
        is_done = entry.live.is_over.is_set() or entry.heard.is_set()
        return not entry.is_daemons_own and not is_done

    def _give_up_one(self) -> None:
        """Make room at the cost of a client that left on purpose, or without having said anything.

        What it has said is still recognised, and kept.
        """
        for entry in self._entries.values():
            if not self._takes_room(entry) or entry.owner:
                continue
            if entry.is_left_for_good or entry.live.position == 0:
                entry.live.finish()
                entry.heard.set()
                return

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise _unknown(name)
        return entry

    async def _watch(self, name: str) -> None:
        """End a session that nobody comes back to, and forget it when its end has been heard."""
        entry = self._entries[name]
        if not entry.is_daemons_own:
            await self._abandoned(entry, entry.live.is_over)
            entry.live.finish()
        await entry.live.is_over.wait()
        entry.live.close()
        if self._keeps_ends() or not entry.is_daemons_own:
            await self._abandoned(entry, entry.heard)
        del self._entries[name]
        self._on_end(name)
        logger.info("session %s is over", name)

    async def _abandoned(self, entry: _Entry, is_done: asyncio.Event) -> None:
        """Wait until nobody has had the session for `resume_s`, or until it is done."""
        while not is_done.is_set():
            entry.left.clear()
            try:
                async with asyncio.timeout(None if entry.owner else self.resume_s):
                    await _first(entry.left, is_done)
            except TimeoutError:
                return


async def _first(*events: asyncio.Event) -> None:
    """Wait for any of them."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _unknown(name: str) -> v1.RefusalError:
    if name == v1.MICROPHONE:
        sentence = "this daemon listens to no microphone"
    else:
        sentence = f"there is no session {name!r}, or it was over too long ago to go on with it"
    return v1.RefusalError(v1.ErrorCode.UNKNOWN_SESSION, sentence)
