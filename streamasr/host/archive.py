"""The part of `streamasr.storage.store.Store` that a live session uses."""

from concurrent.futures import Future
from typing import Protocol

from streamasr.core.hypothesis import StableText
from streamasr.core.messages import Durable
from streamasr.core.units import Float32Array, Samples


class Archive(Protocol):
    """Keeps messages and audio on disk, in the order of the calls."""

    def append_message(self, name: str, seq: int, message: Durable) -> "Future[None]":
        """Keep a message. The future is done when it is kept, or cannot be."""

    def read_messages(
        self, name: str, since: int, limit: int
    ) -> "Future[list[tuple[int, Durable]]]":
        """Read up to `limit` messages after number `since`, oldest first."""

    def keep_stable_text(self, name: str, stable: StableText) -> "Future[None]":
        """Keep the stable text of the open segment. The future is done as that of a message."""

    def append_audio(self, name: str, position: Samples, samples: Float32Array) -> None:
        """Keep samples until they are settled."""

    def skip_audio(self, name: str, position: Samples) -> None:
        """Note a hole: the next samples begin at `position`."""

    def settle(self, name: str, position: Samples) -> None:
        """Allow samples before `position` to be deleted."""
