"""Fair queue of many sessions before one worker; pure.

Start-time fair queueing: each owner has a virtual time, the seconds of service that it has had.
Among the waiting owners, the one with the least is served next, so that a session that always wants
something (a file) cannot keep out one that seldom does (a speaker):

* An owner that begins to wait starts at the virtual time of the least served of the active ones, or
  at its own if that is later. So idleness earns nothing, and a newcomer owes nothing for the past.
* Owners within `quantum` of the least served one count as equals. Among equals, finals go before
  partials; then the owner goes first that was served, or came, the longest time ago.

So a final of an owner that had no more than its share waits for the running operation, and for one
of each other owner that was there before it; anything else waits for a quantum and an operation of
each at most.

A worker that does one thing after the other calls `pop` and `charge`. A worker that does many
things at once, in steps, calls `front` before each step, `spend` after it, and `finish` when
something is done.
"""

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from streamasr.core.orders import Rank

QUANTUM_S: Final = 0.5
"""Seconds of service that make no difference between owners: about one operation."""


OwnerT = TypeVar("OwnerT", bound=Hashable)
ItemT = TypeVar("ItemT")


@dataclass(slots=True)
class _Account(Generic[ItemT]):
    """Service and waiting items of one owner."""

    virtual_time: float  # seconds
    turn: int  # grows; when it was last served, or began to wait
    n_running: int = 0  # operations that were popped and not yet charged
    waiting: dict[Rank, deque[ItemT]] = field(
        default_factory=lambda: {rank: deque() for rank in Rank}
    )

    @property
    def rank(self) -> Rank | None:
        """Rank of its next item; None if nothing waits."""
        return next((rank for rank in Rank if self.waiting[rank]), None)

    @property
    def is_active(self) -> bool:
        return self.n_running > 0 or self.rank is not None


class FairQueue(Generic[OwnerT, ItemT]):
    """Items that wait for one worker. `charge` follows each `pop` once its cost is known."""

    def __init__(self, quantum: float = QUANTUM_S) -> None:
        """Begin without items."""
        self._quantum = quantum
        self._accounts: dict[OwnerT, _Account[ItemT]] = {}
        self._now = 0.0  # virtual time of the least served active owner; never falls
        self._n_turns = 0

    def __len__(self) -> int:
        """Return the number of waiting items."""
        return sum(
            len(items) for account in self._accounts.values() for items in account.waiting.values()
        )

    def push(self, owner: OwnerT, item: ItemT, rank: Rank) -> None:
        """Add an item behind those of its owner and rank."""
        account = self._accounts.get(owner)
        if account is None:
            account = self._accounts[owner] = _Account(self._now, self._next_turn())
        elif not account.is_active:
            account.virtual_time = max(account.virtual_time, self._now)
            account.turn = self._next_turn()
        account.waiting[rank].append(item)
        self._advance()

    def pop(self) -> tuple[OwnerT, ItemT]:
        """Take the item that is served next.

        Raises:
            IndexError: the queue is empty.
        """
        rank, [(owner, item), *_] = self.front()
        account = self._accounts[owner]
        account.waiting[rank].popleft()
        account.turn = self._next_turn()
        account.n_running += 1
        return owner, item

    def charge(self, owner: OwnerT, seconds: float) -> None:
        """Charge an owner for an item that was popped; an owner that was dropped pays nothing."""
        if account := self._accounts.get(owner):
            account.virtual_time += seconds
            account.turn = self._next_turn()
            account.n_running -= 1
            self._advance()

    def front(self) -> tuple[Rank, list[tuple[OwnerT, ItemT]]]:
        """Return the items that are served next: one of each owner whose turn it is, of one rank.

        Raises:
            IndexError: the queue is empty.
        """
        owners = self._next_owners(self._least())
        if not owners:
            raise IndexError("nothing waits")
        rank = self._accounts[owners[0]].rank
        assert rank is not None
        return rank, [(owner, self._accounts[owner].waiting[rank][0]) for owner in owners]

    def spend(self, owner: OwnerT, seconds: float) -> None:
        """Charge an owner for a step on one of its items."""
        if account := self._accounts.get(owner):
            account.virtual_time += seconds
            self._advance()

    def finish(self, owner: OwnerT, item: ItemT) -> bool:
        """Remove an item that is done; False if it was removed before."""
        account = self._accounts.get(owner)
        found = bool(self.remove(owner, lambda other: other is item))
        if account and found:
            account.turn = self._next_turn()
        return found

    def has(self, owner: OwnerT, item: ItemT) -> bool:
        """Tell whether an item is still waiting."""
        account = self._accounts.get(owner)
        waiting = account.waiting.values() if account else ()
        return any(item is other for items in waiting for other in items)

    def change_rank(self, owner: OwnerT, predicate: Callable[[ItemT], bool], rank: Rank) -> None:
        """Move the items of an owner that satisfy `predicate` behind those of another rank."""
        if changed := self.remove(owner, predicate):
            self._accounts[owner].waiting[rank].extend(changed)

    def remove(self, owner: OwnerT, predicate: Callable[[ItemT], bool]) -> list[ItemT]:
        """Remove the waiting items of an owner that satisfy `predicate`, and return them."""
        removed: list[ItemT] = []
        if account := self._accounts.get(owner):
            for rank, items in account.waiting.items():
                removed += filter(predicate, items)
                account.waiting[rank] = deque(item for item in items if not predicate(item))
        return removed

    def drop_owner(self, owner: OwnerT) -> None:
        """Remove an owner and all its items."""
        self._accounts.pop(owner, None)

    def has_urgent(self, rank: Rank) -> bool:
        """Tell whether an item waits that would go before a running one of this rank."""
        owners = self._next_owners(self._now)
        urgent = self._accounts[owners[0]].rank if owners else None
        return urgent is not None and urgent < rank

    def _least(self) -> float:
        """Return the virtual time of the least served waiting owner."""
        waiting = (a.virtual_time for a in self._accounts.values() if a.rank is not None)
        return min(waiting, default=0.0)

    def _next_owners(self, least: float) -> list[OwnerT]:
        """Return the owners whose turn it is, in order, if the least served one is at `least`."""
        candidates = sorted(
            (
                (account.rank, account.turn, owner)
                for owner, account in self._accounts.items()
                if account.rank is not None and account.virtual_time <= least + self._quantum
            ),
            key=lambda candidate: candidate[:2],
        )
        return [owner for rank, _, owner in candidates if rank is candidates[0][0]]

    def _advance(self) -> None:
        present = [account.virtual_time for account in self._accounts.values() if account.is_active]
        if present:
            self._now = max(self._now, min(present))

    def _next_turn(self) -> int:
        self._n_turns += 1
        return self._n_turns
