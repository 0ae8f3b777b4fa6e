"""The sessions of a daemon: opened, left, resumed, and ended when no client comes back."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from streamasr.core.options import SessionOptions
from streamasr.core.refusal import RefusalCode, RefusalError
from streamasr.core.session_names import MICROPHONE
from streamasr.host.live_session import LiveSession
from streamasr.pipeline.stream import Beginning

logger = logging.getLogger(__name__)


class Connection(Protocol):
    """A connection that sends audio to a session."""

    async def is_alive(self, timeout_s: float) -> bool:
        """Tell whether the other end answers within a time."""

    def abort(self) -> None:
        """End the connection at once; `SessionRegistry.detach` follows."""


OpenLive = Callable[[str, SessionOptions, Beginning], LiveSession]
"""Creates a live session of a name."""


@dataclass(slots=True)
class _Entry:
    live: LiveSession
    watch: "asyncio.Task[None]"
    owner: Connection | None = None
    is_given_up: bool = False
    """Its client closed the connection on purpose."""
    owner_changed: asyncio.Event = field(default_factory=asyncio.Event)
    is_daemons_own: bool = False
    end_received: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when its client has the end, or can do without it."""


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
        """Begin without sessions.

        Args:
            open_live: creates a session.
            max_sessions: sessions of clients at the same time; the daemon's own is not counted.
            resume_s: the time that a session waits for a client that lost its connection.
            on_end: called with the name of a session that cannot be resumed any more.
            keeps_ends: returns whether sessions that are over may stay for late readers.
            old_connection_s: the time that an old connection has to show that it is alive, when a
                new one wants to take its place.
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
        options: SessionOptions,
        beginning: Beginning | None = None,
        *,
        is_daemons_own: bool = False,
    ) -> LiveSession:
        """Begin a session, or continue one after a restart; no connection owns it yet.

        Raises:
            RefusalError: all sessions are taken.
        """
        is_new = not is_daemons_own and beginning is None
        if is_new and self._n_running() >= self.max_sessions:
            self._evict_one()
        if is_new and self._n_running() >= self.max_sessions:
            raise RefusalError(
                f"all {self.max_sessions} sessions are taken; try again later",
                code=RefusalCode.OVERLOADED,
            )
        live = self._open_live(name, options, beginning or Beginning())
        watch = asyncio.create_task(self._watch(name), name=f"session {name}")
        self._entries[name] = _Entry(live, watch, is_daemons_own=is_daemons_own)
        logger.info("session %s is open", name)
        return live

    def find(self, name: str) -> LiveSession:
        """Return the session of a name.

        Raises:
            RefusalError: no session has this name.
        """
        return self._entry(name).live

    async def attach(self, name: str, connection: Connection) -> LiveSession:
        """Make a connection the owner of a session, which sends its audio.

        An old connection that broke unnoticed is replaced.

        Raises:
            RefusalError: no session has this name, or another connection owns it.
        """
        entry = self._entry(name)
        if entry.is_daemons_own:
            raise RefusalError(
                f"session {name} is the daemon's own; it can only be read, not sent audio to",
                code=RefusalCode.SESSION_BUSY,
            )
        while (owner := entry.owner) is not None:
            if await owner.is_alive(self._old_connection_s):
                raise RefusalError(
                    f"another connection sends audio to session {name}",
                    code=RefusalCode.SESSION_BUSY,
                )
            logger.info("session %s: its old connection is dead", name)
            owner.abort()
            while entry.owner is owner:  # what it sent is taken before the new one begins
                entry.owner_changed.clear()
                await entry.owner_changed.wait()
        if self._entries.get(name) is not entry:
            raise _unknown(name)
        entry.owner, entry.is_given_up = connection, False
        entry.owner_changed.set()
        return entry.live

    def detach(
        self, name: str, connection: Connection, *, is_given_up: bool, has_received_end: bool
    ) -> None:
        """Note that a connection is closed; its session waits to be resumed.

        Args:
            name: of the session.
            connection: that is closed.
            is_given_up: the client closed it on purpose, so that the session may be evicted when
                another client needs its place.
            has_received_end: the client got everything; the session is not needed any more.
        """
        entry = self._entries.get(name)
        if entry is None or entry.owner is not connection:
            return
        entry.owner, entry.is_given_up = None, is_given_up
        if has_received_end:
            entry.end_received.set()
        entry.owner_changed.set()

    def finish_all(self) -> None:
        """Take no more audio in any session; what was received is still recognised."""
        for entry in self._entries.values():
            entry.live.intake.finish()

    async def wait_all_over(self) -> None:
        """Wait until every session has published its end."""
        for live in self:
            await live.is_over.wait()

    async def drop(self, name: str) -> None:
        """Forget a session that is over, even if no client has received its end."""
        if entry := self._entries.get(name):
            entry.end_received.set()
            await self.wait_gone(name)

    async def wait_gone(self, name: str) -> None:
        """Wait until a session was forgotten."""
        if entry := self._entries.get(name):
            await asyncio.wait([entry.watch])

    async def close(self) -> None:
        """Stop; sessions that are not over, or not received, can be resumed after a restart."""
        for entry in self._entries.values():
            entry.watch.cancel()
            entry.live.close()
        watches = [entry.watch for entry in self._entries.values()]
        await asyncio.gather(*watches, return_exceptions=True)
        for name, entry in self._entries.items():
            is_received = entry.end_received.is_set() or entry.is_daemons_own
            is_wanted = self._keeps_ends() and not is_received
            if entry.live.is_over.is_set() and not is_wanted:
                self._on_end(name)

    def _n_running(self) -> int:
        """Return the number of clients' sessions that take a place."""
        return sum(self._takes_place(entry) for entry in self._entries.values())

    @staticmethod
    def _takes_place(entry: _Entry) -> bool:
        is_done = entry.live.is_over.is_set() or entry.end_received.is_set()
        return not entry.is_daemons_own and not is_done

    def _evict_one(self) -> None:
        """Finish a session that was given up, or whose client left before it sent any audio.

        What was received is still recognised, and kept.
        """
        for entry in self._entries.values():
            if not self._takes_place(entry) or entry.owner:
                continue
            if entry.is_given_up or entry.live.intake.position == 0:
                entry.live.intake.finish()
                entry.end_received.set()
                return

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise _unknown(name)
        return entry

    async def _watch(self, name: str) -> None:
        """End a session that no client resumes, and forget it when its end was received."""
        entry = self._entries[name]
        if not entry.is_daemons_own:
            await self._wait_abandoned(entry, entry.live.is_over)
            entry.live.intake.finish()
        await entry.live.is_over.wait()
        entry.live.close()
        if self._keeps_ends() or not entry.is_daemons_own:
            await self._wait_abandoned(entry, entry.end_received)
        del self._entries[name]
        self._on_end(name)
        logger.info("session %s is over", name)

    async def _wait_abandoned(self, entry: _Entry, is_done: asyncio.Event) -> None:
        """Wait until the session had no owner for `resume_s`, or until `is_done` is set."""
        while not is_done.is_set():
            entry.owner_changed.clear()
            try:
                async with asyncio.timeout(None if entry.owner else self.resume_s):
                    await _wait_any(entry.owner_changed, is_done)
            except TimeoutError:
                return


async def _wait_any(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _unknown(name: str) -> RefusalError:
    if name == MICROPHONE:
        sentence = "this daemon does not use a microphone"
    else:
        sentence = f"session {name!r} does not exist, or ended too long ago to be resumed"
    return RefusalError(sentence, code=RefusalCode.UNKNOWN_SESSION)
