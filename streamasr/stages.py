"""The stages of the engine: what waits for each of them, whose turn it is, one thing at a time.

A worker's stage sends its child one request and holds the others back, so that what waits can still
be overtaken or taken back. The decoder's stage is a thread. Both charge the owner of an order with
the time for which it kept the others waiting, restarts of the child included.
"""

import abc
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from streamasr.decoder.llama import Aborted
from streamasr.errors import StreamASRError, WorkerError
from streamasr.events import Align, Answer, Decode, Decoded, Encode, PassAbandoned, PassFailed
from streamasr.models.qwen3_asr import Qwen3ASRDecoder
from streamasr.scheduling import FairQueue, Rank
from streamasr.workers.process import Worker

logger = logging.getLogger(__name__)

OrderT = TypeVar("OrderT", bound=Encode | Decode | Align)
RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


class Owner(Protocol):
    """Who gave an order, and gets its answer."""

    def __hash__(self) -> int:
        """By identity."""

    def hand_over(self, answer: Answer) -> None:
        """Take an answer. Never raises."""


class Stage(abc.ABC, Generic[OrderT]):
    """Orders that wait for one worker."""

    def __init__(self) -> None:
        """Begin with nothing waiting."""
        self._queue: FairQueue[Owner, OrderT] = FairQueue()
        self._changed = threading.Condition()  # guards everything here
        self._is_stopping = False

    @property
    def n_waiting(self) -> int:
        """How many orders wait; the one that is being worked on does not count."""
        with self._changed:
            return len(self._queue)

    @abc.abstractmethod
    def put(self, owner: Owner, order: OrderT) -> None:
        """Let an order wait for its turn. It gets one answer, unless it is taken back."""

    def take_back(self, owner: Owner, predicate: Callable[[OrderT], bool]) -> list[OrderT]:
        """Remove the waiting orders of an owner that satisfy `predicate`."""
        with self._changed:
            return self._queue.remove(owner, predicate)

    def forget(self, owner: Owner) -> None:
        """Remove an owner and all its waiting orders."""
        with self._changed:
            self._queue.drop_owner(owner)


class WorkerStage(Stage[OrderT], Generic[OrderT, RequestT, ResultT]):
    """Orders that wait for a child process."""

    def __init__(
        self,
        worker: Worker[Any, RequestT, ResultT],
        request_of: Callable[[OrderT], RequestT],
        answer_of: Callable[[OrderT, "Future[ResultT]"], Answer],
    ) -> None:
        """Stand before a worker.

        Args:
            worker: started and stopped by its owner.
            request_of: what the child gets of an order.
            answer_of: from an order and what came of its request, a result or an error.
        """
        super().__init__()
        self._worker = worker
        self._request_of = request_of
        self._answer_of = answer_of
        self._is_busy = False

    def put(self, owner: Owner, order: OrderT) -> None:
        """Let an order wait for its turn."""
        with self._changed:
            self._queue.push(owner, order, rank_of(order))
        self._send()

    def stop(self) -> None:
        """Send nothing any more."""
        with self._changed:
            self._is_stopping = True

    def _send(self) -> None:
        """Give the child what is next, if it has nothing to do."""
        while taken := self._take():
            owner, order = taken
            began = time.perf_counter()
            result = self._worker.submit(self._request_of(order))
            if not result.done():
                result.add_done_callback(lambda result: self._go_on(owner, order, began, result))  # noqa: B023 - returns
                return
            # The worker takes nothing any more. A loop, since a callback would nest as deep as the
            # queue is long.
            self._finish(owner, began)
            owner.hand_over(self._answer_of(order, result))

    def _go_on(self, owner: Owner, order: OrderT, began: float, result: "Future[ResultT]") -> None:
        self._finish(owner, began)
        self._send()  # first, so that the child need not wait
        owner.hand_over(self._answer_of(order, result))

    def _take(self) -> tuple[Owner, OrderT] | None:
        with self._changed:
            if self._is_busy or self._is_stopping or not self._queue:
                return None
            self._is_busy = True
            return self._queue.pop()

    def _finish(self, owner: Owner, began: float) -> None:
        with self._changed:
            self._queue.charge(owner, time.perf_counter() - began)
            self._is_busy = False


class DecoderStage(Stage[Decode]):
    """Orders that wait for the decoder's thread.

    A final does not wait for a partial: the partial is abandoned, whoever it is for. But no session
    loses two in a row to others, so that finals of others leave it half of its partials at least.
    """

    def __init__(self, load: Callable[[], Qwen3ASRDecoder]) -> None:
        """Prepare; `load` runs in the thread, to which the decoder belongs."""
        super().__init__()
        self._load = load
        self._decoder: Qwen3ASRDecoder | None = None
        self._running: tuple[Owner, Decode] | None = None
        self._yielded: set[Owner] = set()  # whose last partial made way for somebody else's final
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Whether the decoder is loaded."""
        return self._decoder is not None

    def start(self) -> None:
        """Begin to load; returns at once."""
        self._thread.start()

    def wait_ready(self) -> None:
        """Wait until the decoder is loaded.

        Raises:
            ModelError: it cannot be.
        """
        self._ready.result()

    def stop(self) -> None:
        """Stop what is being decoded, and give the memory back."""
        with self._changed:
            self._is_stopping = True
            if self._decoder:
                self._decoder.abandon()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def put(self, owner: Owner, order: Decode) -> None:
        """Let an order wait for its turn; a final may stop the partial that is being decoded."""
        with self._changed:
            self._queue.push(owner, order, rank_of(order))
            if order.of.is_final and self._running and self._queue.has_urgent():
                self._make_way(owner, *self._running)
            self._changed.notify()

    def abandon(self, owner: Owner, predicate: Callable[[Decode], bool]) -> None:
        """Stop what is being decoded if it is this owner's and satisfies `predicate`."""
        with self._changed:
            if self._running and self._running[0] is owner and predicate(self._running[1]):
                assert self._decoder is not None
                self._decoder.abandon()

    def forget(self, owner: Owner) -> None:
        """Remove an owner, all its waiting orders, and what is being decoded for it."""
        super().forget(owner)
        self.abandon(owner, lambda _: True)

    def check_context(self, context: str) -> None:
        """See `Qwen3ASRDecoder.check_context`. May be called from any thread.

        Raises:
            ConfigError: it is too long.
            WorkerError: the decoder is not loaded.
        """
        with self._changed:  # the vocabulary must not go meanwhile
            if self._decoder is None:
                raise WorkerError("the decoder is not running.")
            self._decoder.check_context(context)

    def _make_way(self, claimant: Owner, owner: Owner, running: Decode) -> None:
        if running.of.is_final or (owner is not claimant and owner in self._yielded):
            return
        assert self._decoder is not None
        self._decoder.abandon()
        if owner is not claimant:
            self._yielded.add(owner)

    # What follows runs in the thread.

    def _run(self) -> None:
        try:
            decoder = self._load()
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            self._ready.set_exception(error)
            return
        with self._changed:
            self._decoder = decoder
        self._ready.set_result(None)
        while taken := self._take(decoder):
            self._serve(decoder, *taken)
        with self._changed:
            self._decoder = None
            decoder.close()

    def _take(self, decoder: Qwen3ASRDecoder) -> tuple[Owner, Decode] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping or self._queue)
            if self._is_stopping:
                return None
            self._running = self._queue.pop()
            # Under the lock: what is abandoned from here on is this order.
            decoder.rearm()
            return self._running

    def _serve(self, decoder: Qwen3ASRDecoder, owner: Owner, order: Decode) -> None:
        began = time.perf_counter()
        answer = _decode(decoder, order)
        cost = time.perf_counter() - began
        with self._changed:
            self._running = None
            self._queue.charge(owner, cost)
            if isinstance(answer, Decoded):
                self._yielded.discard(owner)
        owner.hand_over(replace(answer, cost=cost) if isinstance(answer, Decoded) else answer)


def rank_of(order: Encode | Decode | Align) -> Rank:
    """Words are owed like finals, and nothing else is aligned."""
    is_final = isinstance(order, Align) or order.of.is_final
    return Rank.FINAL if is_final else Rank.PARTIAL


def _decode(decoder: Qwen3ASRDecoder, order: Decode) -> Answer:
    try:
        hypothesis = decoder.decode(
            order.embeddings, context=order.context, language=order.language, forced=order.forced
        )
        return Decoded(order.of, hypothesis)
    except Aborted:
        return PassAbandoned(order.of)
    except StreamASRError as error:
        return PassFailed(order.of, str(error))
    except Exception as error:  # the thread's outermost frame: whoever waits must hear of it
        logger.exception("segment %d could not be decoded", order.of.segment)
        return PassFailed(order.of, f"internal error: {error!r}")
