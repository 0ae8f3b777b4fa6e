"""A thread that executes orders one after the other, and futures that are always resolved."""

import collections
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


class Work(Protocol):
    """Work of the thread besides its orders."""

    def pause_s(self) -> float | None:
        """Return the seconds until `go_on` has something to do; None for never."""

    def go_on(self) -> None:
        """Do work that is due; called after every order, and after each pause."""

    def finish(self) -> bool:
        """Do all that is left; called once, after the last order. Return True if nothing is."""


@dataclass(slots=True)
class Bound:
    """Limit to what waits in the queue, of one kind of orders."""

    limit: int
    used: int = 0


class _Order(NamedTuple):
    execute: Callable[[], None]
    bound: Bound | None
    size: int


class OrderThread:
    """Executes orders in their own order, for use from any thread.

    The future of an order is resolved when the order says so, or at the latest when the thread is
    closed: nothing waits for a disk that hangs.
    """

    def __init__(self, name: str, work: Work) -> None:
        """Prepare a thread; `start` begins it.

        Args:
            name: of the thread.
            work: besides the orders.
        """
        self._work = work
        self._changed = threading.Condition()
        self._orders: collections.deque[_Order] = collections.deque()
        self._unresolved: dict[Future[Any], Any] = {}  # and their results when the thread is closed
        self._is_closing = False
        self._is_complete = False  # everything was done
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to execute orders, those given before included."""
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Execute the orders that wait, and stop.

        Returns:
            True if everything was done in time; if not, the rest is lost.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        with self._changed:
            self._orders.clear()
            unresolved = list(self._unresolved.items())
        for future, result in unresolved:
            self.resolve(future, result)
        return self._is_complete

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended, after `close` has given up waiting."""
        self._thread.join(timeout_s)

    def submit(
        self, execute: Callable[[], None], bound: Bound | None = None, size: int = 1
    ) -> bool:
        """Add an order to the queue.

        Args:
            execute: does what is wanted; an exception is logged, and costs this order alone.
            bound: limit that counts this order.
            size: of the order, in the unit of its bound.

        Returns:
            False if the thread is closing, and takes no more orders.

        Raises:
            queue.Full: more than its bound allows waits already.
        """
        with self._changed:
            if bound and bound.used + size > bound.limit:
                raise queue.Full
            if self._is_closing:
                return False
            if bound:
                bound.used += size
            self._orders.append(_Order(execute, bound, size))
            self._changed.notify()
        return True

    def ask(
        self,
        execute: "Callable[[Future[ResultT]], None]",
        otherwise: ResultT,
        bound: Bound | None = None,
    ) -> "Future[ResultT]":
        """Add an order that has a result.

        Args:
            execute: is given the future, to be resolved by `resolve` then or later.
            otherwise: the result if the thread takes no more orders, or is closed before.
            bound: limit that counts this order as 1.

        Returns:
            A future that cannot be cancelled, and never has an exception.

        Raises:
            queue.Full: more than its bound allows waits already.
        """
        future: Future[ResultT] = Future()
        future.set_running_or_notify_cancel()  # from here on it cannot be cancelled
        with self._changed:
            self._unresolved[future] = otherwise
        try:
            is_taken = self.submit(partial(execute, future), bound)
        except queue.Full:
            self.resolve(future, otherwise)
            raise
        if not is_taken:
            self.resolve(future, otherwise)
        return future

    def resolve(self, future: "Future[ResultT] | None", result: ResultT) -> None:
        """Set the result of a future, unless it has one."""
        with self._changed:
            if future is None or future not in self._unresolved:
                return
            del self._unresolved[future]
        future.set_result(result)

    # In the thread.

    def _run(self) -> None:
        for order in self._wait_for_orders():
            try:
                if order:
                    order.execute()
                self._work.go_on()
            except Exception:
                logger.exception("thread %s: an order failed", self._thread.name)
        self._is_complete = self._work.finish()

    def _wait_for_orders(self) -> Iterator[_Order | None]:
        """Yield the orders, and None after each pause, until the thread is closed."""
        while True:
            pause_s = self._work.pause_s()
            with self._changed:
                self._changed.wait_for(lambda: self._orders or self._is_closing, pause_s)
                if not self._orders and self._is_closing:
                    return
                order = self._orders.popleft() if self._orders else None
                if order and order.bound:
                    order.bound.used -= order.size
            yield order
