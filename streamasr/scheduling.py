"""Whose turn it is, where many sessions share one worker; pure.

Start-time fair queueing: each owner has a virtual time, the seconds of service that it has had.
Among those who wait, the one with the least is served next, so that a session that always wants
something (a file) cannot keep out one that seldom does (somebody speaking):

* An owner that begins to wait starts where the least served of the present ones stands, or at its
  own time if that is later. So idleness earns nothing, and a newcomer owes nothing for the past.
* Owners within `quantum` of the least served one count as equals. Among equals finals go before
  partials, then it goes in turn: whoever was served, or came, the longest time ago.

So a final of an owner that had no more than its share waits for the running operation, and for one
of each other owner that was there before it; anything else waits for a quantum and an operation of
each at most.
"""

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Generic, TypeVar

QUANTUM_S: Final = 0.5
"""Seconds of service that make no difference between owners: about one operation."""


class Rank(IntEnum):
    """What goes first among equals."""

    FINAL = 0
    PARTIAL = 1


OwnerT = TypeVar("OwnerT", bound=Hashable)
ItemT = TypeVar("ItemT")


@dataclass(slots=True)
class _Account(Generic[ItemT]):
    """An owner's standing."""

    virtual_time: float  # seconds
    turn: int  # grows; when it was last served, or began to wait
    n_running: int = 0  # operations that were popped and not yet charged
    waiting: dict[Rank, deque[ItemT]] = field(
        default_factory=lambda: {rank: deque() for rank in Rank}
    )

    @property
    def rank(self) -> Rank | None:
        """Of what it wants next; None if nothing waits."""
        return next((rank for rank in Rank if self.waiting[rank]), None)

    @property
    def is_active(self) -> bool:
        return self.n_running > 0 or self.rank is not None


class FairQueue(Generic[OwnerT, ItemT]):
    """What is waiting for one worker. `charge` follows each `pop` once its cost is known."""

    def __init__(self, quantum: float = QUANTUM_S) -> None:
        """Begin with nothing waiting."""
        self._quantum = quantum
        self._accounts: dict[OwnerT, _Account[ItemT]] = {}
        self._now = 0.0  # virtual time of the least served active owner; never falls
        self._n_turns = 0

    def __len__(self) -> int:
        """How many items wait."""
        return sum(
            len(items) for account in self._accounts.values() for items in account.waiting.values()
        )

    def push(self, owner: OwnerT, item: ItemT, rank: Rank) -> None:
        """Let an item wait behind those of its owner and rank."""
        account = self._accounts.get(owner)
        if account is None:
            account = self._accounts[owner] = _Account(self._now, self._next_turn())
        elif not account.is_active:
            account.virtual_time = max(account.virtual_time, self._now)
            account.turn = self._next_turn()
        account.waiting[rank].append(item)
        self._advance()

    def pop(self) -> tuple[OwnerT, ItemT]:
        """Take what is served next.

        Raises:
            IndexError: nothing waits.
        """
        waiting = [a.virtual_time for a in self._accounts.values() if a.rank is not None]
        owner = self._next_owner(min(waiting, default=0.0))
        if owner is None:
            raise IndexError("nothing waits")
        account = self._accounts[owner]
        assert account.rank is not None
        item = account.waiting[account.rank].popleft()
        account.turn = self._next_turn()
        account.n_running += 1
        return owner, item

    def charge(self, owner: OwnerT, seconds: float) -> None:
        """Note what an item that was popped has cost. An owner that was dropped pays nothing."""
        if account := self._accounts.get(owner):
            account.virtual_time += seconds
            account.turn = self._next_turn()
            account.n_running -= 1
            self._advance()

    def remove(self, owner: OwnerT, predicate: Callable[[ItemT], bool]) -> list[ItemT]:
        """Take back the waiting items of an owner that satisfy `predicate`."""
        removed: list[ItemT] = []
        if account := self._accounts.get(owner):
            for rank, items in account.waiting.items():
                removed += filter(predicate, items)
                account.waiting[rank] = deque(item for item in items if not predicate(item))
        return removed

    def drop_owner(self, owner: OwnerT) -> None:
        """Forget an owner and all that it waits for."""
        self._accounts.pop(owner, None)

    def has_urgent(self) -> bool:
        """Whether a final waits that would go before what is running, had that not begun."""
        owner = self._next_owner(self._now)
        return owner is not None and self._accounts[owner].rank is Rank.FINAL

    def _next_owner(self, least: float) -> OwnerT | None:
        """Who is served next if the least served one stands at `least`."""
        candidates = [
            (account.rank, account.turn, owner)
            for owner, account in self._accounts.items()
            if account.rank is not None and account.virtual_time <= least + self._quantum
        ]
        return min(candidates, key=lambda candidate: candidate[:2])[2] if candidates else None

    def _advance(self) -> None:
        present = [account.virtual_time for account in self._accounts.values() if account.is_active]
        if present:
            self._now = max(self._now, min(present))

    def _next_turn(self) -> int:
        self._n_turns += 1
        return self._n_turns
