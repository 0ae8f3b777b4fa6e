"""The stages of the engine, with a decoder and a child that do as the test says."""

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, cast

import numpy as np
import pytest

from streamasr.decoder.llama import Aborted
from streamasr.errors import ConfigError, ModelError, WorkerError
from streamasr.events import (
    Answer,
    Decode,
    Decoded,
    Encode,
    Encoded,
    Hypothesis,
    Pass,
    PassAbandoned,
    PassFailed,
)
from streamasr.models.qwen3_asr import Qwen3ASRDecoder
from streamasr.stages import DecoderStage, WorkerStage
from streamasr.units import Float32Array
from streamasr.workers.process import Worker

PATIENCE_S = 30
NOTHING = np.zeros((1, 4), np.float32)


class Listener:
    """An owner that notes its answers."""

    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def hand_over(self, answer: Answer) -> None:
        self.answers.put(answer)

    def next(self) -> Answer:
        return self.answers.get(timeout=PATIENCE_S)


class GatedDecoder:
    """Says when it begins, and ends when the test lets it or when it is abandoned."""

    def __init__(self) -> None:
        self.begun: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._n_released = 0
        self._is_abandoned = False
        self.is_closed = False

    def decode(self, _: Float32Array, *, context: str, **__: object) -> Hypothesis:
        self.begun.put(context)
        with self._changed:
            assert self._changed.wait_for(
                lambda: self._is_abandoned or self._n_released, PATIENCE_S
            )
            if self._is_abandoned:
                raise Aborted
            self._n_released -= 1
        return Hypothesis(context, None, ())

    def release(self) -> None:
        with self._changed:
            self._n_released += 1
            self._changed.notify()

    def abandon(self) -> None:
        with self._changed:
            self._is_abandoned = True
            self._changed.notify()

    def rearm(self) -> None:
        self._is_abandoned = False

    def check_context(self, context: str) -> None:
        if "long" in context:
            raise ConfigError("the context is too long.")

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def decoder() -> GatedDecoder:
    return GatedDecoder()


@pytest.fixture
def stage(decoder: GatedDecoder) -> Iterator[DecoderStage]:
    stage = DecoderStage(lambda: cast("Qwen3ASRDecoder", decoder))
    stage.start()
    stage.wait_ready()
    yield stage
    stage.stop()


def final(name: str) -> Decode:
    return Decode(Pass(1, is_final=True), NOTHING, context=name)


def partial(name: str, segment: int = 2) -> Decode:
    return Decode(Pass(segment, is_final=False), NOTHING, context=name)


def begun(decoder: GatedDecoder) -> str:
    return decoder.begun.get(timeout=PATIENCE_S)


def test_an_answer_goes_to_who_gave_the_order(stage: DecoderStage, decoder: GatedDecoder) -> None:
    owners = [Listener() for _ in range(3)]
    for n, owner in enumerate(owners):
        stage.put(owner, final(str(n)))
        decoder.release()
    for n, owner in enumerate(owners):
        answer = owner.next()
        assert isinstance(answer, Decoded)
        assert answer.hypothesis.text == str(n)
        assert answer.cost > 0
        assert owner.answers.empty()


@pytest.mark.parametrize("is_own", [True, False])
def test_a_final_stops_the_partial_that_is_being_decoded(
    stage: DecoderStage, decoder: GatedDecoder, is_own: bool
) -> None:
    speaker, other = Listener(), Listener()
    stage.put(speaker, partial("partial"))
    assert begun(decoder) == "partial"
    claimant = speaker if is_own else other
    stage.put(claimant, final("final"))
    assert speaker.next() == PassAbandoned(Pass(2, is_final=False))
    assert begun(decoder) == "final"
    decoder.release()
    assert isinstance(claimant.next(), Decoded)


def test_a_final_does_not_stop_a_final_nor_a_partial_a_partial(
    stage: DecoderStage, decoder: GatedDecoder
) -> None:
    a, b = Listener(), Listener()
    for order in (final, partial):
        stage.put(a, order("first"))
        assert begun(decoder) == "first"
        stage.put(b, order("second"))
        decoder.release()
        assert isinstance(a.next(), Decoded)
        assert begun(decoder) == "second"
        decoder.release()
        assert isinstance(b.next(), Decoded)


def test_a_session_never_loses_two_partials_in_a_row_to_others(
    stage: DecoderStage, decoder: GatedDecoder
) -> None:
    speaker, other = Listener(), Listener()
    for _ in range(3):
        stage.put(speaker, partial("stopped"))
        assert begun(decoder) == "stopped"
        stage.put(other, final("final"))
        assert isinstance(speaker.next(), PassAbandoned)
        assert begun(decoder) == "final"
        decoder.release()
        assert isinstance(other.next(), Decoded)
        stage.put(speaker, partial("spared"))
        assert begun(decoder) == "spared"
        stage.put(other, final("waiting"))
        decoder.release()
        assert isinstance(speaker.next(), Decoded)
        assert begun(decoder) == "waiting"
        decoder.release()
        assert isinstance(other.next(), Decoded)


def test_only_what_is_meant_is_abandoned(stage: DecoderStage, decoder: GatedDecoder) -> None:
    a, b = Listener(), Listener()
    stage.put(a, partial("a", segment=7))
    assert begun(decoder) == "a"
    stage.abandon(b, lambda _: True)
    stage.abandon(a, lambda order: order.of.segment == 6)
    decoder.release()
    assert isinstance(a.next(), Decoded)
    stage.abandon(a, lambda _: True)
    stage.put(b, partial("b"))
    decoder.release()
    assert isinstance(b.next(), Decoded)


def test_what_waits_can_be_taken_back(stage: DecoderStage, decoder: GatedDecoder) -> None:
    a, b = Listener(), Listener()
    stage.put(a, final("running"))
    assert begun(decoder) == "running"
    for owner in (a, b):
        stage.put(owner, partial("waiting", segment=3))
        stage.put(owner, partial("waiting", segment=4))
    assert stage.n_waiting == 4
    [taken] = stage.take_back(a, lambda order: order.of.segment == 3)
    assert taken.of.segment == 3
    assert stage.n_waiting == 3
    for _ in range(4):
        decoder.release()
    assert [cast("Decoded", a.next()).of.segment for _ in range(2)] == [1, 4]
    assert [cast("Decoded", b.next()).of.segment for _ in range(2)] == [3, 4]


def test_who_is_forgotten_holds_up_nobody(stage: DecoderStage, decoder: GatedDecoder) -> None:
    gone, stays = Listener(), Listener()
    stage.put(gone, final("running"))
    assert begun(decoder) == "running"
    stage.put(gone, final("waiting"))
    stage.put(stays, final("stays"))
    stage.forget(gone)
    assert begun(decoder) == "stays"
    decoder.release()
    assert isinstance(stays.next(), Decoded)
    assert stage.n_waiting == 0


def test_a_context_can_be_checked_while_something_is_decoded(
    stage: DecoderStage, decoder: GatedDecoder
) -> None:
    stage.put(Listener(), final("running"))
    assert begun(decoder) == "running"
    stage.check_context("short")
    with pytest.raises(ConfigError, match="too long"):
        stage.check_context("long")
    stage.stop()
    assert decoder.is_closed
    with pytest.raises(WorkerError, match="not running"):
        stage.check_context("short")


def test_a_decoder_that_cannot_be_loaded_says_why() -> None:
    def load() -> Qwen3ASRDecoder:
        raise ModelError("no such file")

    stage = DecoderStage(load)
    stage.start()
    with pytest.raises(ModelError, match="no such file"):
        stage.wait_ready()
    assert not stage.is_ready
    stage.stop()


class ManualWorker:
    """A child whose answers come when the test says so."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, Future[int]]] = []
        self.is_gone = False

    def submit(self, request: int) -> "Future[int]":
        answer: Future[int] = Future()
        if self.is_gone:
            answer.set_exception(WorkerError("the child is gone."))
        else:
            self.requests.append((request, answer))
        return answer

    def answer(self) -> int:
        """Answer the oldest request."""
        request, answer = self.requests.pop(0)
        answer.set_result(request)
        return request


def encode(number: int, *, is_final: bool = True) -> Encode:
    return Encode(Pass(number, is_final=is_final), np.zeros(number, np.float32))


def answer_of(order: Encode, result: "Future[int]") -> Answer:
    if error := result.exception():
        return PassFailed(order.of, str(error))
    return Encoded(order.of, np.full((1, 1), result.result(), np.float32))


@pytest.fixture
def child() -> ManualWorker:
    return ManualWorker()


@pytest.fixture
def encoding(child: ManualWorker) -> WorkerStage[Encode, int, int]:
    return WorkerStage(
        cast("Worker[Any, int, int]", child), lambda order: len(order.samples), answer_of
    )


def test_the_child_has_one_request_at_a_time(
    encoding: WorkerStage[Encode, int, int], child: ManualWorker
) -> None:
    owner = Listener()
    for n in range(1, 6):
        encoding.put(owner, encode(n))
    for n in range(1, 6):
        assert len(child.requests) == 1
        assert encoding.n_waiting == 5 - n
        assert child.answer() == n
        answer = owner.next()
        assert isinstance(answer, Encoded)
        assert answer.of.segment == answer.embeddings[0, 0] == n
    assert not child.requests


def test_what_comes_late_can_be_first(
    encoding: WorkerStage[Encode, int, int], child: ManualWorker
) -> None:
    file, live = Listener(), Listener()
    for n in range(1, 51):
        encoding.put(file, encode(n))
    encoding.put(live, encode(100, is_final=False))
    encoding.put(live, encode(101))
    assert [child.answer() for _ in range(3)] == [1, 101, 2]


def test_a_child_that_is_gone_fails_all_that_waits(
    encoding: WorkerStage[Encode, int, int], child: ManualWorker
) -> None:
    owner = Listener()
    n_orders = 5000  # deeper than calls can nest
    for n in range(n_orders):
        encoding.put(owner, encode(n))
    child.is_gone = True
    child.answer()
    answers = [owner.next() for _ in range(n_orders)]
    assert sum(isinstance(answer, PassFailed) for answer in answers) == n_orders - 1
    assert owner.answers.empty()


def test_nothing_is_sent_to_a_child_that_is_to_stop(
    encoding: WorkerStage[Encode, int, int], child: ManualWorker
) -> None:
    owner = Listener()
    encoding.put(owner, encode(1))
    encoding.put(owner, encode(2))
    encoding.stop()
    child.answer()
    assert not child.requests
