"""A connection's end of a session: the queue from which it sends."""

import asyncio

from streamasr.core.outgoing import Outgoing
from streamasr.host.outbox import Outbox, OutboxEntry


class Reader:
    """Receives the events of a session for one connection."""

    def __init__(self) -> None:
        """Begin with an empty outbox."""
        self.outbox = Outbox()
        self.is_closed = False
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()

    def put(self, entry: OutboxEntry) -> None:
        """Queue an event of the session."""
        self.outbox.put(entry)
        self._filled.set()

    def post(self, event: Outgoing) -> None:
        """Queue an event that is for this reader only."""
        self.put(OutboxEntry(event))

    def take(self) -> OutboxEntry | None:
        """Remove and return the next entry to send; None when there is none yet."""
        entry = self.outbox.take()
        self._emptied.set()
        return entry

    def close(self) -> None:
        """Stop: nothing is added or sent from now on."""
        self.is_closed = True
        self._filled.set()
        self._emptied.set()

    async def wait(self) -> None:
        """Wait until there is an entry to send, or the reader is closed."""
        while not self.outbox and not self.is_closed:
            self._filled.clear()
            await self._filled.wait()

    async def wait_below(self, n_entries: int) -> None:
        """Wait until fewer entries are queued, or the reader is closed."""
        while len(self.outbox) >= n_entries and not self.is_closed:
            self._emptied.clear()
            await self._emptied.wait()
