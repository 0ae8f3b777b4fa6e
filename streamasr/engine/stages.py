"""Stages of the engine: a queue of orders, and the worker behind it.

    Encode    --> encoder process     --> PassEncoded
    Decode    --> decoder thread      --> Recognised
    Punctuate --> punctuation process --> Punctuated
    Align     --> aligner process     --> Aligned

`Encode`, `PassEncoded` and `Decode` are known inside the engine only. The decoder's stage is in
`decoder_stage`.

A worker's stage sends its child one request and holds the others back, so that a waiting order can
still be overtaken or taken back. It charges the owner of an order with the time during which it
kept the others waiting, restarts of the child included.
"""

import abc
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from streamasr.core.events import Answer, PassFailed
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Align, Pass, Punctuate, Rank
from streamasr.core.units import Float32Array
from streamasr.engine.encoder import EncodedUtterance, EncoderWorker, UtteranceAudio
from streamasr.engine.fair_queue import FairQueue
from streamasr.models.family import Encoded


@dataclass(frozen=True, slots=True, eq=False)
class Encode:
    """Encode these samples; answered by `PassEncoded` or `PassFailed`."""

    of: Pass
    samples: Float32Array
    """(n,), the segment from its start."""
    options: SessionOptions = SessionOptions()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True, eq=False)
class PassEncoded:
    """Encoding of one pass."""

    of: Pass
    encoded: Encoded
    cost: float = 0.0
    """Seconds that the encoder worked on it, waiting not counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Decode:
    """Decode this encoding; answered by `Recognised` or `PassFailed`."""

    of: Pass
    encoded: Encoded
    options: SessionOptions = SessionOptions()  # noqa: RUF009 - frozen
    forced: tuple[int, ...] = ()
    draft: tuple[int, ...] = ()
    """As of `Recognise`, like the two above."""
    encoding: float = 0.0
    """Seconds that the encoder worked on the pass."""


OrderT = TypeVar("OrderT", bound=Encode | Decode | Punctuate | Align)
RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")

StageAnswer: TypeAlias = PassEncoded | Answer
"""Result of one stage."""


class Owner(Protocol):
    """Giver of orders, and receiver of their answers."""

    def __hash__(self) -> int:
        """Hash by identity."""

    def hand_over(self, answer: StageAnswer) -> None:
        """Take the answer of a stage. Never raises."""


class Stage(abc.ABC, Generic[OrderT]):
    """Orders that wait for one worker."""

    def __init__(self) -> None:
        """Begin without orders."""
        self._queue: FairQueue[Owner, OrderT] = FairQueue()
        self._changed = threading.Condition(threading.RLock())  # guards everything here
        self._is_stopping = False

    @property
    def n_waiting(self) -> int:
        """Number of waiting orders; the one that is being worked on does not count."""
        with self._changed:
            return len(self._queue)

    @abc.abstractmethod
    def put(self, owner: Owner, order: OrderT) -> None:
        """Add an order to the queue. It gets one answer, unless it is taken back."""

    def take_back(self, owner: Owner, predicate: Callable[[OrderT], bool]) -> list[OrderT]:
        """Remove the waiting orders of an owner that satisfy `predicate`."""
        with self._changed:
            return self._queue.remove(owner, predicate)

    def promote(self, owner: Owner, predicate: Callable[[OrderT], bool]) -> None:
        """Move the waiting orders that satisfy `predicate` to those of finals."""
        with self._changed:
            self._queue.change_rank(owner, predicate, Rank.FINAL)

    def forget(self, owner: Owner) -> None:
        """Remove an owner and all its waiting orders."""
        with self._changed:
            self._queue.drop_owner(owner)


class WorkerStage(Stage[OrderT], Generic[OrderT, RequestT, ResultT]):
    """Orders that wait for a child process."""

    def __init__(
        self,
        submit: Callable[[RequestT], "Future[ResultT]"],
        request_of: Callable[[Owner, OrderT], RequestT],
        answer_of: Callable[[OrderT, "Future[ResultT]"], StageAnswer],
    ) -> None:
        """Make a stage before a worker.

        Args:
            submit: of the worker, which is started and stopped by its owner.
            request_of: makes the request of an order; called once it cannot be taken back.
            answer_of: makes the answer of an order and the result or error of its request.
        """
        super().__init__()
        self._submit = submit
        self._request_of = request_of
        self._answer_of = answer_of
        self._is_busy = False

    def put(self, owner: Owner, order: OrderT) -> None:
        """Add an order to the queue."""
        with self._changed:
            self._queue.push(owner, order, rank_of(order))
        self._send()

    def stop(self) -> None:
        """Send no more requests."""
        with self._changed:
            self._is_stopping = True

    def _send(self) -> None:
        """Send the child the next request if it is idle."""
        while taken := self._take():
            owner, order, request = taken
            began = time.perf_counter()
            result = self._submit(request)
            if not result.done():
                result.add_done_callback(lambda result: self._continue(owner, order, began, result))  # noqa: B023 - returns
                return
            # The worker was stopped. A loop, since callbacks would nest as deep as the queue.
            self._finish(owner, began)
            owner.hand_over(self._answer_of(order, result))

    def _continue(
        self, owner: Owner, order: OrderT, began: float, result: "Future[ResultT]"
    ) -> None:
        self._finish(owner, began)
        self._send()  # first, so that the child need not wait
        owner.hand_over(self._answer_of(order, result))

    def _take(self) -> tuple[Owner, OrderT, RequestT] | None:
        with self._changed:
            if self._is_busy or self._is_stopping or not self._queue:
                return None
            self._is_busy = True
            owner, order = self._queue.pop()
            return owner, order, self._request_of(owner, order)

    def _finish(self, owner: Owner, began: float) -> None:
        with self._changed:
            self._queue.charge(owner, time.perf_counter() - began)
            self._is_busy = False


class EncoderStage(WorkerStage[Encode, UtteranceAudio, EncodedUtterance]):
    """Orders that wait for the encoder process, in which each segment is one utterance."""

    def __init__(self, worker: EncoderWorker) -> None:
        """Make a stage before a worker, which is started and stopped by its owner."""
        super().__init__(worker.submit, self._request, _encoded)
        self._encoder = worker
        self._keys: dict[tuple[Owner, int], int] = {}  # of owners and segments
        self._numbers = itertools.count()

    def release(self, owner: Owner, segment: int) -> None:
        """Free a segment, for which no more orders come."""
        with self._changed:
            key = self._keys.pop((owner, segment), None)
        if key is not None:
            self._encoder.release(key)

    def forget(self, owner: Owner) -> None:
        """Remove an owner and all its waiting orders, and free its segments."""
        super().forget(owner)
        with self._changed:
            segments = [segment for other, segment in self._keys if other is owner]
        for segment in segments:
            self.release(owner, segment)

    def _request(self, owner: Owner, order: Encode) -> UtteranceAudio:
        with self._changed:
            name = (owner, order.of.segment)
            key = self._keys.get(name)
            if key is None:
                key = self._keys[name] = next(self._numbers)
        return UtteranceAudio(key, order.samples, order.options)


def rank_of(order: Encode | Decode | Punctuate | Align) -> Rank:
    """Return the rank of an order; words are owed like finals."""
    return Rank.FINAL if isinstance(order, Align) else order.of.rank


def _encoded(order: Encode, result: "Future[EncodedUtterance]") -> StageAnswer:
    if error := result.exception():
        return PassFailed(order.of, str(error))
    utterance = result.result()
    return PassEncoded(order.of, utterance.encoded, utterance.cost)
