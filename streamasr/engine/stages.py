"""Stages of the engine: the queue before each of them, and the work that it does.

    Encode --> encoder process --> Encoded
    Decode --> decoder thread  --> Recognised
    Align  --> aligner process --> Aligned

`Encode`, `Encoded` and `Decode` are known inside the engine only.

A worker's stage sends its child one request and holds the others back, so that what waits can still
be overtaken or taken back. The decoder's stage is a thread that works on several orders at once, in
steps. Both charge the owner of an order with the time for which it kept the others waiting, with
restarts of the child.
"""

import abc
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeAlias, TypeVar

from streamasr.core.errors import WorkerError
from streamasr.core.events import Answer, PassFailed, Recognised
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Align, Pass, Rank
from streamasr.core.units import Float32Array
from streamasr.decoder import batching
from streamasr.decoder.llama import Aborted
from streamasr.engine.encoder import Embedded, EncoderWorker, UtteranceAudio
from streamasr.engine.fair_queue import FairQueue
from streamasr.models.family import Encoded as Encoding
from streamasr.models.qwen3.decoder import Qwen3ASRDecoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Encode:
    """Compute the embeddings of these samples; answered by `Encoded` or `PassFailed`."""

    of: Pass
    samples: Float32Array
    """(n,), the segment from its start."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Embeddings of one pass."""

    of: Pass
    embeddings: Float32Array
    """(n_tokens, n_embd)."""
    cost: float = 0.0
    """Seconds that the encoder worked on them, waiting not counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Decode:
    """Decode these embeddings; answered by `Recognised` or `PassFailed`."""

    of: Pass
    embeddings: Float32Array
    options: SessionOptions = SessionOptions()  # noqa: RUF009 - frozen
    forced: tuple[int, ...] = ()
    draft: tuple[int, ...] = ()
    """As of `Recognise`, like the two above."""
    encoding: float = 0.0
    """Seconds that the encoder worked on the embeddings."""


OrderT = TypeVar("OrderT", bound=Encode | Decode | Align)
RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")

StageAnswer: TypeAlias = Encoded | Answer
"""Result of one stage."""

BatchAnswer: TypeAlias = batching.Answer[Hypothesis]


class Owner(Protocol):
    """Who gave an order, and gets its answer."""

    def __hash__(self) -> int:
        """By identity."""

    def hand_over(self, answer: StageAnswer) -> None:
        """Take the answer of a stage. Never raises."""


class Stage(abc.ABC, Generic[OrderT]):
    """Orders that wait for one worker."""

    def __init__(self) -> None:
        """Begin with nothing waiting."""
        self._queue: FairQueue[Owner, OrderT] = FairQueue()
        self._changed = threading.Condition(threading.RLock())  # guards everything here
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

    def promote(self, owner: Owner, predicate: Callable[[OrderT], bool]) -> None:
        """Let the waiting orders that satisfy `predicate` go with the finals from now on."""
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
        """Stand before a worker.

        Args:
            submit: of the worker, which is started and stopped by its owner.
            request_of: what the child gets of an order; called once it cannot be taken back.
            answer_of: from an order and what came of its request, a result or an error.
        """
        super().__init__()
        self._submit = submit
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
            owner, order, request = taken
            began = time.perf_counter()
            result = self._submit(request)
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


class EncoderStage(WorkerStage[Encode, UtteranceAudio, Embedded]):
    """Orders that wait for the encoder process, in which each segment is one utterance."""

    def __init__(self, worker: EncoderWorker) -> None:
        """Stand before a worker, which is started and stopped by its owner."""
        super().__init__(worker.submit, self._request, _encoded)
        self._encoder = worker
        self._keys: dict[tuple[Owner, int], int] = {}  # of owners and segments
        self._numbers = itertools.count()

    def release(self, owner: Owner, segment: int) -> None:
        """No more of a segment is encoded."""
        with self._changed:
            key = self._keys.pop((owner, segment), None)
        if key is not None:
            self._encoder.release(key)

    def forget(self, owner: Owner) -> None:
        """Remove an owner, all its waiting orders, and what was kept of its segments."""
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
        return UtteranceAudio(key, order.samples)


class DecoderStage(Stage[Decode]):
    """Orders that the decoder's thread works on, in steps: a batch for all whose turn it is.

    What is more urgent interrupts the running batch of what is less; that batch is done again
    later, and nothing else is lost.
    """

    def __init__(self, load: Callable[[], Qwen3ASRDecoder]) -> None:
        """Prepare; `load` runs in the thread, to which the decoder belongs."""
        super().__init__()
        self._load = load
        self._decoder: Qwen3ASRDecoder | None = None
        self._begun: dict[tuple[Owner, Pass], BatchAnswer] = {}
        self._running: tuple[Rank, list[tuple[Owner, Decode]]] | None = None  # the present step
        self._segments: set[tuple[Owner, int]] = set()  # of which something is kept
        self._released: list[tuple[Owner, int]] = []  # and need not be any longer
        self._n_steps = 0
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Whether the decoder is loaded."""
        return self._decoder is not None

    @property
    def n_waiting(self) -> int:
        """How many orders wait; those that have been begun do not count."""
        with self._changed:
            return len(self._queue) - len(self._begun)

    @property
    def pulse(self) -> int | None:
        """Rises while orders are being worked on; None while there are none."""
        with self._changed:
            if self._decoder is None or not self._queue:
                return None
            return self._n_steps + self._decoder.n_operations

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
        """Let an order wait for its turn; it may interrupt what is being decoded."""
        with self._changed:
            self._queue.push(owner, order, rank_of(order))
            self._interrupt_if_urgent()
            self._changed.notify()

    def promote(self, owner: Owner, predicate: Callable[[Decode], bool]) -> None:
        """Speculative passes have become finals."""
        with self._changed:
            super().promote(owner, predicate)
            self._interrupt_if_urgent()

    def take_back(self, owner: Owner, predicate: Callable[[Decode], bool]) -> list[Decode]:
        """Remove the orders of an owner that satisfy `predicate`, begun or not."""
        with self._changed:
            removed = super().take_back(owner, predicate)
            for order in removed:
                self._begun.pop((owner, order.of), None)
                self._interrupt_if_for(owner, order)
            return removed

    def release(self, owner: Owner, segment: int) -> None:
        """No more of a segment is decoded."""
        with self._changed:
            self._released.append((owner, segment))
            self._changed.notify()

    def forget(self, owner: Owner) -> None:
        """Remove an owner, all its orders, and what was kept of its segments."""
        with self._changed:
            self.take_back(owner, lambda _: True)
            super().forget(owner)
            self._released += [name for name in self._segments if name[0] is owner]
            self._changed.notify()

    def check_context(self, context: str) -> None:
        """See `Qwen3ASRDecoder.check_context`. May be called from any thread.

        Raises:
            ConfigError: it is too long.
            WorkerError: the decoder is not loaded.
        """
        with self._changed:  # the vocabulary must not go meanwhile
            if self._decoder is None:
                raise WorkerError("the decoder is not running.")
            self._decoder.check_options(SessionOptions(context=context))

    def _interrupt_if_urgent(self) -> None:
        """Interrupt the running step if it is not for what is most urgent now."""
        if not (self._running and self._decoder and self._queue.has_urgent(self._running[0])):
            return
        _, urgent = self._queue.front()
        if not any(order in self._running[1] for order in urgent):
            self._decoder.abandon()

    def _interrupt_if_for(self, owner: Owner, order: Decode) -> None:
        """Interrupt the running step if it is for nobody else."""
        if self._running and self._decoder and self._running[1] == [(owner, order)]:
            self._decoder.abandon()

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
        while self._is_wanted(decoder):
            self._step(decoder)
        with self._changed:
            self._decoder = None
            decoder.close()

    def _is_wanted(self, decoder: Qwen3ASRDecoder) -> bool:
        """Wait for something to do, and forget what is not needed; False when it is all over."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping or self._queue or self._released)
            for name in self._released:
                decoder.release(name)
            self._segments.difference_update(self._released)
            self._released.clear()
            return not self._is_stopping

    def _step(self, decoder: Qwen3ASRDecoder) -> None:
        orders = self._next_orders(decoder)
        for owner, order in orders:
            self._begin(decoder, owner, order)
        try:
            answers = self._answers(orders)
            costs = dict(decoder.step(answers)) if answers else {}
        except Aborted:
            costs = {}
        except Exception as error:  # the thread's outermost frame: whoever waits must hear of it
            logger.exception("a step of the decoder failed")
            self._give_up(orders, error)
            costs = {}
        for owner, order, answer in self._end_step(orders, costs):
            owner.hand_over(_recognised(order, answer))

    def _next_orders(self, decoder: Qwen3ASRDecoder) -> list[tuple[Owner, Decode]]:
        with self._changed:
            if not self._queue:
                return []
            self._n_steps += 1
            self._running = self._queue.front()
            # Under the lock: what is interrupted from here on is this step.
            decoder.rearm()
            return self._running[1]

    def _begin(self, decoder: Qwen3ASRDecoder, owner: Owner, order: Decode) -> None:
        """Begin with an order, if it is new and has not been taken back."""
        try:
            with self._changed:
                if (owner, order.of) in self._begun or not self._queue.has(owner, order):
                    return
                segment = owner, order.of.segment
                self._begun[owner, order.of] = decoder.begin(
                    segment,
                    Encoding(order.embeddings),
                    order.options,
                    forced=order.forced,
                    draft=order.draft,
                )
                self._segments.add(segment)
        except Exception as error:  # as above, and nobody else is concerned
            logger.exception("the decoder could not begin")
            self._give_up([(owner, order)], error)

    def _answers(self, orders: Sequence[tuple[Owner, Decode]]) -> list[BatchAnswer]:
        """The answers that are being found to those orders that have not been taken back."""
        with self._changed:
            found = [self._begun.get((owner, order.of)) for owner, order in orders]
            return [answer for answer in found if answer]

    def _end_step(
        self, orders: Sequence[tuple[Owner, Decode]], costs: Mapping[BatchAnswer, float]
    ) -> list[tuple[Owner, Decode, BatchAnswer]]:
        """Charge for a step; what is complete by it, and still wanted."""
        complete = []
        with self._changed:
            self._running = None
            for owner, order in orders:
                answer = self._begun.get((owner, order.of))
                self._queue.spend(owner, costs.get(answer, 0.0) if answer else 0.0)
                if answer and answer.is_complete:
                    del self._begun[owner, order.of]
                    self._queue.finish(owner, order)
                    complete.append((owner, order, answer))
        return complete

    def _give_up(self, orders: Sequence[tuple[Owner, Decode]], error: Exception) -> None:
        """Answer that these orders failed, and believe nothing that was read for them."""
        with self._changed:
            for owner, order in orders:
                self._begun.pop((owner, order.of), None)
                self._released.append((owner, order.of.segment))
            given_up = [(o, order) for o, order in orders if self._queue.finish(o, order)]
        for owner, order in given_up:
            owner.hand_over(PassFailed(order.of, f"internal error: {error!r}"))


def rank_of(order: Encode | Decode | Align) -> Rank:
    """Words are owed like finals, and nothing else is aligned."""
    return Rank.FINAL if isinstance(order, Align) else order.of.rank


def _encoded(order: Encode, result: "Future[Embedded]") -> StageAnswer:
    if error := result.exception():
        return PassFailed(order.of, str(error))
    embedded = result.result()
    return Encoded(order.of, embedded.embeddings, embedded.cost)


def _recognised(order: Decode, answer: BatchAnswer) -> Answer:
    if answer.result is None:
        return PassFailed(order.of, str(answer.error))
    return Recognised(order.of, answer.result, replace(answer.cost, encode=order.encoding))
