"""Stage of the decoder: a thread that works on several orders at once, in steps."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeAlias

from streamasr.core.errors import WorkerError
from streamasr.core.events import Answer, PassFailed, Recognised
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Pass, Rank
from streamasr.decoder import batching
from streamasr.decoder.llama import Aborted
from streamasr.engine.stages import Decode, Owner, Stage, rank_of
from streamasr.models.family import Decoder

logger = logging.getLogger(__name__)

BatchAnswer: TypeAlias = batching.Answer[Hypothesis]


class DecoderStage(Stage[Decode]):
    """Orders that the decoder's thread works on in steps, each a batch for the next owners.

    An urgent order interrupts the running batch of others; that batch is computed again later, and
    nothing else is lost.
    """

    def __init__(self, load: Callable[[], Decoder]) -> None:
        """Prepare; `load` runs in the thread, to which the decoder belongs."""
        super().__init__()
        self._load = load
        self._decoder: Decoder | None = None
        self._begun: dict[tuple[Owner, Pass], BatchAnswer] = {}
        self._running: tuple[Rank, list[tuple[Owner, Decode]]] | None = None  # the present step
        self._segments: set[tuple[Owner, int]] = set()  # whose cells are kept
        self._released: list[tuple[Owner, int]] = []  # whose cells can be freed
        self._n_steps = 0
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Tell whether the decoder is loaded."""
        return self._decoder is not None

    @property
    def n_waiting(self) -> int:
        """Number of waiting orders; those that have been begun do not count."""
        with self._changed:
            return len(self._queue) - len(self._begun)

    @property
    def pulse(self) -> int | None:
        """Counter that rises while orders are being worked on; None without orders."""
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
            ModelError: the decoder cannot be loaded.
        """
        self._ready.result()

    def stop(self) -> None:
        """Interrupt the running step, end the thread and free the memory."""
        with self._changed:
            self._is_stopping = True
            if self._decoder:
                self._decoder.abandon()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def put(self, owner: Owner, order: Decode) -> None:
        """Add an order to the queue; it may interrupt the running step."""
        with self._changed:
            self._queue.push(owner, order, rank_of(order))
            self._interrupt_if_urgent()
            self._changed.notify()

    def promote(self, owner: Owner, predicate: Callable[[Decode], bool]) -> None:
        """Move the orders that satisfy `predicate` to those of finals."""
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
        """Free a segment, for which no more orders come."""
        with self._changed:
            self._released.append((owner, segment))
            self._changed.notify()

    def forget(self, owner: Owner) -> None:
        """Remove an owner and all its orders, and free its segments."""
        with self._changed:
            self.take_back(owner, lambda _: True)
            super().forget(owner)
            self._released += [name for name in self._segments if name[0] is owner]
            self._changed.notify()

    def check_options(self, options: SessionOptions) -> None:
        """Check options; see `Decoder.check_options`. May be called from any thread.

        Raises:
            ConfigError: the prompt has no room for context and hotwords.
            WorkerError: the decoder is not loaded.
        """
        with self._changed:  # the decoder must not be closed meanwhile
            if self._decoder is None:
                raise WorkerError("the decoder is not running.", code="decoder_not_running")
            self._decoder.check_options(options)

    def _interrupt_if_urgent(self) -> None:
        """Interrupt the running step if it is not for the most urgent orders."""
        if not (self._running and self._decoder and self._queue.has_urgent(self._running[0])):
            return
        _, urgent = self._queue.front()
        if not any(order in self._running[1] for order in urgent):
            self._decoder.abandon()

    def _interrupt_if_for(self, owner: Owner, order: Decode) -> None:
        """Interrupt the running step if it is for this order only."""
        if self._running and self._decoder and self._running[1] == [(owner, order)]:
            self._decoder.abandon()

    # The thread.

    def _run(self) -> None:
        try:
            decoder = self._load()
        except Exception as error:  # noqa: BLE001 - raised by `wait_ready`
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

    def _is_wanted(self, decoder: Decoder) -> bool:
        """Wait for orders, and free the segments that were released; False after `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping or self._queue or self._released)
            for name in self._released:
                decoder.release(name)
            self._segments.difference_update(self._released)
            self._released.clear()
            return not self._is_stopping

    def _step(self, decoder: Decoder) -> None:
        orders = self._next_orders(decoder)
        for owner, order in orders:
            self._begin(decoder, owner, order)
        try:
            answers = self._answers(orders)
            costs = dict(decoder.step(answers)) if answers else {}
        except Aborted:
            costs = {}
        except Exception as error:  # outermost frame of the thread; the orders fail
            logger.exception("a step of the decoder failed")
            self._give_up(orders, error)
            costs = {}
        for owner, order, answer in self._end_step(orders, costs):
            owner.hand_over(_recognised(order, answer))

    def _next_orders(self, decoder: Decoder) -> list[tuple[Owner, Decode]]:
        with self._changed:
            if not self._queue:
                return []
            self._n_steps += 1
            self._running = self._queue.front()
            # Under the lock, so that later interruptions are of this step.
            decoder.rearm()
            return self._running[1]

    def _begin(self, decoder: Decoder, owner: Owner, order: Decode) -> None:
        """Begin with an order, if it is new and has not been taken back."""
        try:
            with self._changed:
                if (owner, order.of) in self._begun or not self._queue.has(owner, order):
                    return
                segment = owner, order.of.segment
                self._begun[owner, order.of] = decoder.begin(
                    segment,
                    order.encoded,
                    order.options,
                    forced=order.forced,
                    draft=order.draft,
                )
                self._segments.add(segment)
        except Exception as error:  # as above, for this order only
            logger.exception("the decoder could not begin")
            self._give_up([(owner, order)], error)

    def _answers(self, orders: Sequence[tuple[Owner, Decode]]) -> list[BatchAnswer]:
        """Return the unfinished answers to those orders that have not been taken back."""
        with self._changed:
            found = [self._begun.get((owner, order.of)) for owner, order in orders]
            return [answer for answer in found if answer]

    def _end_step(
        self, orders: Sequence[tuple[Owner, Decode]], costs: Mapping[BatchAnswer, float]
    ) -> list[tuple[Owner, Decode, BatchAnswer]]:
        """Charge for a step, and return the orders that it completed, with their answers."""
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
        """Let these orders fail, and discard everything that was read for them."""
        with self._changed:
            for owner, order in orders:
                self._begun.pop((owner, order.of), None)
                self._released.append((owner, order.of.segment))
            given_up = [(o, order) for o, order in orders if self._queue.finish(o, order)]
        for owner, order in given_up:
            owner.hand_over(PassFailed(order.of, f"internal error: {error!r}"))


def _recognised(order: Decode, answer: BatchAnswer) -> Answer:
    if answer.result is None:
        return PassFailed(order.of, str(answer.error))
    return Recognised(order.of, answer.result, replace(answer.cost, encode=order.encoding))
