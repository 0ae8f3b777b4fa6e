"""The stages of the engine, with a decoder and a child that do as the test says."""

import itertools
import queue
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, cast

import numpy as np
import pytest

from streamasr.core.errors import ConfigError, DecodeError, ModelError, WorkerError
from streamasr.core.events import Costs, PassFailed, Recognised
from streamasr.core.hypothesis import Hypothesis
from streamasr.core.options import SessionOptions
from streamasr.core.orders import Pass, Rank
from streamasr.decoder.llama import Aborted
from streamasr.engine.decoder_stage import DecoderStage
from streamasr.engine.encoder import EncodedUtterance, EncoderWorker, UtteranceAudio
from streamasr.engine.stages import (
    Decode,
    Encode,
    EncoderStage,
    PassEncoded,
    StageAnswer,
    WorkerStage,
)
from streamasr.models.family import Decoder, Encoded
from tests.support.errors import raises

TIMEOUT_S = 30
EMBEDDING = np.zeros((1, 4), np.float32)


class Listener:
    """An owner that notes its answers."""

    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[StageAnswer] = queue.SimpleQueue()

    def hand_over(self, answer: StageAnswer) -> None:
        self.answers.put(answer)

    def next(self) -> StageAnswer:
        return self.answers.get(timeout=TIMEOUT_S)

    def next_text(self) -> str:
        answer = self.next()
        assert isinstance(answer, Recognised)
        return answer.hypothesis.text


class FakeAnswer:
    """Takes as many steps as its order has embeddings; its text is its context."""

    def __init__(self, name: str, n_steps: int) -> None:
        self.name = name
        self.n_left = n_steps
        self.error: DecodeError | None = None
        self.cost = Costs()

    @property
    def is_complete(self) -> bool:
        return self.n_left == 0 or self.error is not None

    @property
    def result(self) -> Hypothesis | None:
        return None if self.error or self.n_left else Hypothesis(self.name, None, ())

    def go_on(self) -> None:
        self.n_left -= 1
        self.cost = Costs(decode=self.cost.decode + 1)
        if self.name == "refused":
            self.error = DecodeError("refused")


class FakeDecoder:
    """Says what each step is about, and makes it when the test lets it, if it is not abandoned.

    Attributes:
        steps: the contexts of the orders that each step is about, when it begins.
        notes: what it was told besides, in its thread.
    """

    def __init__(self) -> None:
        self.steps: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        self.notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.n_begun: Counter[str] = Counter()
        self.is_closed = False
        self._changed = threading.Condition()
        self._n_allowed = 0
        self._is_abandoned = False

    def begin(
        self, _: Hashable, encoded: Encoded, options: SessionOptions, **__: Any
    ) -> FakeAnswer:
        if options.context == "broken":
            raise ZeroDivisionError(options.context)
        self.n_begun[options.context] += 1
        return FakeAnswer(options.context, len(encoded.embeddings))

    def step(self, answers: Sequence[FakeAnswer]) -> list[tuple[FakeAnswer, float]]:
        assert not any(answer.is_complete for answer in answers)
        names = [answer.name for answer in answers]
        self.steps.put(names)
        with self._changed:
            assert self._changed.wait_for(lambda: self._is_abandoned or self._n_allowed, TIMEOUT_S)
            if self._is_abandoned:
                raise Aborted
            self._n_allowed -= 1
        if "fatal" in names:
            raise ZeroDivisionError("fatal")
        for answer in answers:
            answer.go_on()
        return [(answer, 0.01) for answer in answers]

    def release(self, key: tuple[object, int]) -> None:
        self.notes.put(f"release {key[1]} in {threading.current_thread().name}")

    def allow(self, n_steps: int = 1) -> None:
        """Let it make some steps."""
        with self._changed:
            self._n_allowed += n_steps
            self._changed.notify()

    def step_begun(self) -> list[str]:
        """Contexts of the orders of the next step."""
        return self.steps.get(timeout=TIMEOUT_S)

    def abandon(self) -> None:
        with self._changed:
            self._is_abandoned = True
            self._changed.notify()

    def rearm(self) -> None:
        with self._changed:
            self._is_abandoned = False

    def check_options(self, options: SessionOptions) -> None:
        if "long" in options.context:
            raise ConfigError("the context is too long.", code="context_too_long")

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def decoder() -> FakeDecoder:
    return FakeDecoder()


@pytest.fixture
def stage(decoder: FakeDecoder) -> Iterator[DecoderStage]:
    stage = DecoderStage(lambda: cast("Decoder", decoder))
    stage.start()
    stage.wait_ready()
    yield stage
    stage.stop()
    assert decoder.is_closed


numbers = itertools.count(1)


def decode(name: str, rank: Rank, segment: int = 1, n_steps: int = 1) -> Decode:
    of = Pass(segment, next(numbers), rank)
    encoded = Encoded(EMBEDDING.repeat(n_steps, axis=0))
    return Decode(of, encoded, SessionOptions(context=name), encoding=0.5)


def final(name: str, segment: int = 1, n_steps: int = 1) -> Decode:
    return decode(name, Rank.FINAL, segment, n_steps)


def speculative(name: str, segment: int = 1, n_steps: int = 1) -> Decode:
    return decode(name, Rank.SPECULATIVE, segment, n_steps)


def partial(name: str, segment: int = 2, n_steps: int = 1) -> Decode:
    return decode(name, Rank.PARTIAL, segment, n_steps)


def test_an_answer_goes_to_who_gave_the_order(stage: DecoderStage, decoder: FakeDecoder) -> None:
    owners = [Listener() for _ in range(3)]
    decoder.allow(100)
    orders = [final(str(n), n_steps=n + 1) for n in range(3)]
    for owner, order in zip(owners, orders, strict=True):
        stage.put(owner, order)
    for n, (owner, order) in enumerate(zip(owners, orders, strict=True)):
        expected = Recognised(order.of, Hypothesis(str(n), None, ()), Costs(0.5, decode=n + 1))
        assert owner.next() == expected
        assert owner.answers.empty()
    assert stage.n_waiting == 0


def test_answers_of_several_owners_share_a_step(stage: DecoderStage, decoder: FakeDecoder) -> None:
    owners = {name: Listener() for name in "abc"}
    stage.put(owners["a"], partial("a", n_steps=3))
    assert decoder.step_begun() == ["a"]
    stage.put(owners["b"], partial("b", n_steps=2))
    stage.put(owners["c"], partial("c", n_steps=1))
    assert stage.n_waiting == 2
    decoder.allow()
    assert decoder.step_begun() == ["a", "b", "c"]
    assert stage.n_waiting == 0
    decoder.allow()
    assert owners["c"].next_text() == "c"
    assert decoder.step_begun() == ["a", "b"]
    decoder.allow()
    assert {owners[name].next_text() for name in "ab"} == {"a", "b"}


def test_one_order_of_an_owner_is_worked_on_at_a_time(
    stage: DecoderStage, decoder: FakeDecoder
) -> None:
    owner = Listener()
    stage.put(owner, final("first"))
    assert decoder.step_begun() == ["first"]
    stage.put(owner, final("second", segment=2))
    decoder.allow()
    assert owner.next_text() == "first"
    assert decoder.step_begun() == ["second"]


@pytest.mark.parametrize("is_own", [True, False])
@pytest.mark.parametrize("urgent", [final, speculative])
def test_what_is_urgent_interrupts_a_step_and_nothing_is_lost(
    stage: DecoderStage, decoder: FakeDecoder, urgent: Callable[[str], Decode], is_own: bool
) -> None:
    speaker, other = Listener(), Listener()
    stage.put(speaker, partial("partial", n_steps=2))
    decoder.allow()
    assert decoder.step_begun() == ["partial"]
    assert decoder.step_begun() == ["partial"]
    claimant = speaker if is_own else other
    stage.put(claimant, urgent("urgent"))
    assert decoder.step_begun() == ["urgent"]
    decoder.allow()
    assert claimant.next_text() == "urgent"
    assert decoder.step_begun() == ["partial"]
    decoder.allow()
    assert speaker.next_text() == "partial"
    assert decoder.n_begun == {"partial": 1, "urgent": 1}


@pytest.mark.parametrize("order", [final, speculative, partial])
def test_what_is_not_more_urgent_interrupts_nothing(
    stage: DecoderStage, decoder: FakeDecoder, order: Callable[[str], Decode]
) -> None:
    a, b = Listener(), Listener()
    stage.put(a, order("first"))
    assert decoder.step_begun() == ["first"]
    stage.put(b, order("second"))
    stage.put(b, partial("third"))
    decoder.allow()
    assert a.next_text() == "first"
    assert decoder.step_begun() == ["second"]


def test_a_promoted_order_goes_with_the_finals(stage: DecoderStage, decoder: FakeDecoder) -> None:
    speaker, other = Listener(), Listener()
    stage.put(other, speculative("other"))
    assert decoder.step_begun() == ["other"]
    order = speculative("speaker")
    stage.put(speaker, order)
    stage.promote(speaker, lambda other: other is order)
    assert decoder.step_begun() == ["speaker"]
    decoder.allow()
    assert speaker.next_text() == "speaker"
    assert decoder.step_begun() == ["other"]


def test_a_promoted_order_does_not_interrupt_itself(
    stage: DecoderStage, decoder: FakeDecoder
) -> None:
    speaker, other = Listener(), Listener()
    stage.put(speaker, speculative("speaker", n_steps=2))
    assert decoder.step_begun() == ["speaker"]
    stage.put(other, speculative("other", n_steps=2))
    decoder.allow()
    assert decoder.step_begun() == ["speaker", "other"]
    stage.promote(speaker, lambda _: True)
    decoder.allow()
    assert speaker.next_text() == "speaker"
    assert decoder.step_begun() == ["other"]  # its first step was not made in vain
    decoder.allow()
    assert other.next_text() == "other"
    assert decoder.steps.empty()


def test_an_order_that_is_taken_back_gets_no_answer(
    stage: DecoderStage, decoder: FakeDecoder
) -> None:
    a, b = Listener(), Listener()
    running = final("running")
    stage.put(a, running)
    assert decoder.step_begun() == ["running"]
    stage.put(a, final("waiting", segment=3))
    stage.put(b, final("b"))
    assert stage.take_back(b, lambda order: order is running) == []
    assert len(stage.take_back(a, lambda _: True)) == 2  # the step is for no order now
    assert decoder.step_begun() == ["b"]
    decoder.allow()
    assert b.next_text() == "b"
    assert a.answers.empty()
    assert stage.n_waiting == 0


def test_a_step_for_others_too_goes_on(stage: DecoderStage, decoder: FakeDecoder) -> None:
    a, b = Listener(), Listener()
    stage.put(a, final("a", n_steps=2))
    assert decoder.step_begun() == ["a"]
    stage.put(b, final("b", n_steps=1))
    decoder.allow()
    assert decoder.step_begun() == ["a", "b"]
    stage.take_back(a, lambda _: True)
    decoder.allow()
    assert b.next_text() == "b"
    assert a.answers.empty()
    assert decoder.steps.empty()


def test_a_pass_that_is_asked_for_again_is_begun_anew(
    stage: DecoderStage, decoder: FakeDecoder
) -> None:
    owner = Listener()
    stage.put(owner, partial("old"))
    assert decoder.step_begun() == ["old"]
    stage.take_back(owner, lambda _: True)
    stage.put(owner, partial("new"))
    assert decoder.step_begun() == ["new"]
    decoder.allow()
    assert owner.next_text() == "new"
    assert owner.answers.empty()


def test_a_forgotten_owner_delays_no_other(stage: DecoderStage, decoder: FakeDecoder) -> None:
    gone, stays = Listener(), Listener()
    stage.put(gone, final("running", segment=7))
    assert decoder.step_begun() == ["running"]
    stage.put(gone, final("waiting", segment=8))
    stage.put(stays, final("stays"))
    stage.forget(gone)
    assert decoder.step_begun() == ["stays"]
    assert decoder.notes.get(timeout=TIMEOUT_S) == "release 7 in decoder"
    decoder.allow()
    assert stays.next_text() == "stays"
    assert gone.answers.empty()
    assert decoder.notes.empty()  # of segment 8 nothing was kept
    assert stage.n_waiting == 0


def test_what_is_released_is_forgotten_in_the_decoders_thread(
    stage: DecoderStage, decoder: FakeDecoder
) -> None:
    owner = Listener()
    decoder.allow(2)
    for segment in (1, 2):
        stage.put(owner, final("a", segment))
        assert owner.next_text() == "a"
    stage.release(owner, 2)  # nothing else wakes the thread
    assert decoder.notes.get(timeout=TIMEOUT_S) == "release 2 in decoder"
    stage.forget(owner)
    assert decoder.notes.get(timeout=TIMEOUT_S) == "release 1 in decoder"
    stage.forget(owner)
    stage.put(owner, final("a"))
    assert decoder.notes.empty()


def test_an_answer_that_fails_is_told_to_who_wanted_it(
    stage: DecoderStage, decoder: FakeDecoder
) -> None:
    a, b = Listener(), Listener()
    stage.put(b, final("b", n_steps=2))
    assert decoder.step_begun() == ["b"]
    order = final("refused", n_steps=9)
    stage.put(a, order)
    decoder.allow(2)
    assert a.next() == PassFailed(order.of, "refused")
    assert b.next_text() == "b"


def test_an_order_that_cannot_be_begun_fails_alone(
    stage: DecoderStage, decoder: FakeDecoder, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = Listener(), Listener()
    stage.put(b, final("b", n_steps=2))
    assert decoder.step_begun() == ["b"]
    order = final("broken")
    stage.put(a, order)
    decoder.allow(2)
    assert a.next() == PassFailed(order.of, "internal error: ZeroDivisionError('broken')")
    assert b.next_text() == "b"
    assert "could not begin" in caplog.text
    assert stage.n_waiting == 0


def test_a_step_that_breaks_fails_for_all_in_it_and_the_thread_lives_on(
    stage: DecoderStage, decoder: FakeDecoder, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = Listener(), Listener()
    orders = final("b", 3, n_steps=9), final("fatal", 4)
    stage.put(b, orders[0])
    assert decoder.step_begun() == ["b"]
    stage.put(a, orders[1])
    stage.put(a, partial("waiting"))
    decoder.allow(2)
    for owner, order in zip((b, a), orders, strict=True):
        assert owner.next() == PassFailed(order.of, "internal error: ZeroDivisionError('fatal')")
    assert "a step of the decoder failed" in caplog.text
    released = {decoder.notes.get(timeout=TIMEOUT_S) for _ in orders}
    assert released == {"release 3 in decoder", "release 4 in decoder"}
    decoder.allow()
    assert a.next_text() == "waiting"


def test_a_stage_stops_in_the_middle_of_a_step(stage: DecoderStage, decoder: FakeDecoder) -> None:
    owner = Listener()
    stage.put(owner, final("running"))
    assert decoder.step_begun() == ["running"]
    stage.put(owner, final("waiting"))
    stage.stop()
    assert decoder.is_closed
    assert not stage.is_ready
    assert owner.answers.empty()
    assert decoder.steps.empty()
    stage.put(owner, final("late"))
    stage.promote(owner, lambda _: True)
    stage.release(owner, 1)
    stage.forget(owner)
    stage.stop()


def test_a_context_can_be_checked_while_something_is_decoded(
    stage: DecoderStage, decoder: FakeDecoder
) -> None:
    stage.put(Listener(), final("running"))
    assert decoder.step_begun() == ["running"]
    stage.check_options(SessionOptions(context="short"))
    with raises(ConfigError, "context_too_long"):
        stage.check_options(SessionOptions(context="long"))
    stage.stop()
    with raises(WorkerError, "decoder_not_running"):
        stage.check_options(SessionOptions(context="short"))


def test_a_decoder_that_cannot_be_loaded_says_why() -> None:
    def load() -> Decoder:
        raise ModelError("it does not exist", code="model_file_missing")

    stage = DecoderStage(load)
    stage.start()
    with raises(ModelError, "model_file_missing"):
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


def encode(number: int, rank: Rank = Rank.FINAL) -> Encode:
    return Encode(Pass(number, number, rank), np.zeros(number, np.float32))


def answer_of(order: Encode, result: "Future[int]") -> StageAnswer:
    if error := result.exception():
        return PassFailed(order.of, str(error))
    return PassEncoded(order.of, Encoded(np.full((1, 1), result.result(), np.float32)))


@pytest.fixture
def child() -> ManualWorker:
    return ManualWorker()


@pytest.fixture
def encoding(child: ManualWorker) -> WorkerStage[Encode, int, int]:
    return WorkerStage(child.submit, lambda _, order: len(order.samples), answer_of)


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
        assert isinstance(answer, PassEncoded)
        assert answer.of.segment == answer.encoded.embeddings[0, 0] == n
    assert not child.requests


def test_what_comes_late_can_be_first(
    encoding: WorkerStage[Encode, int, int], child: ManualWorker
) -> None:
    file, live = Listener(), Listener()
    for n in range(1, 51):
        encoding.put(file, encode(n))
    encoding.put(live, encode(100, Rank.PARTIAL))
    encoding.put(live, encode(101))
    assert [child.answer() for _ in range(3)] == [1, 101, 2]


def test_a_promoted_order_is_encoded_with_the_finals(
    encoding: WorkerStage[Encode, int, int], child: ManualWorker
) -> None:
    owner = Listener()
    for n in (1, 2, 3):
        encoding.put(owner, encode(n, Rank.SPECULATIVE))
    encoding.promote(owner, lambda order: order.of.segment == 3)
    assert [child.answer() for _ in range(3)] == [1, 3, 2]


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


class FakeEncoder:
    """An encoder's process that notes which utterances it gets."""

    def __init__(self) -> None:
        self.requests: list[tuple[UtteranceAudio, Future[EncodedUtterance]]] = []
        self.released: list[int] = []

    def submit(self, request: UtteranceAudio) -> "Future[EncodedUtterance]":
        self.requests.append((request, Future()))
        return self.requests[-1][1]

    def release(self, key: int) -> None:
        self.released.append(key)

    def answer(self) -> UtteranceAudio:
        request, answer = self.requests.pop(0)
        encoded = Encoded(np.zeros((len(request.samples), 4), np.float32))
        answer.set_result(EncodedUtterance(encoded, 0.5))
        return request


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def utterances(encoder: FakeEncoder) -> EncoderStage:
    return EncoderStage(cast("EncoderWorker", encoder))


def utterance(segment: int, n_samples: int = 1) -> Encode:
    return Encode(Pass(segment, next(numbers), Rank.PARTIAL), np.zeros(n_samples, np.float32))


def test_an_utterance_is_encoded_at_its_own_cost(
    utterances: EncoderStage, encoder: FakeEncoder
) -> None:
    owner = Listener()
    order = utterance(1, n_samples=3)
    utterances.put(owner, order)
    assert len(encoder.answer().samples) == 3
    answer = owner.next()
    assert isinstance(answer, PassEncoded)
    assert answer.of is order.of
    assert answer.encoded.embeddings.shape == (3, 4)
    assert answer.cost == 0.5


def test_each_segment_of_each_owner_is_one_utterance(
    utterances: EncoderStage, encoder: FakeEncoder
) -> None:
    a, b = Listener(), Listener()
    keys: dict[tuple[Listener, int], int] = {}
    for n_samples in (1, 2):
        for owner, segment in ((a, 1), (a, 2), (b, 1)):
            utterances.put(owner, utterance(segment, n_samples))
            key = encoder.answer().key
            assert keys.setdefault((owner, segment), key) == key
    assert len(set(keys.values())) == 3
    utterances.release(a, 1)
    assert encoder.released == [keys[a, 1]]
    utterances.release(a, 1)
    utterances.forget(a)
    assert encoder.released == [keys[a, 1], keys[a, 2]]
    utterances.put(a, utterance(1))
    assert encoder.answer().key not in keys.values()


def test_an_utterance_that_was_never_encoded_need_not_be_released(
    utterances: EncoderStage, encoder: FakeEncoder
) -> None:
    running, waiting = Listener(), Listener()
    utterances.put(running, utterance(1))
    utterances.put(waiting, utterance(1))
    utterances.forget(waiting)
    utterances.release(running, 2)
    assert encoder.released == []
    encoder.answer()
    assert not encoder.requests


def test_an_encoder_that_fails_says_so(utterances: EncoderStage, encoder: FakeEncoder) -> None:
    owner = Listener()
    order = utterance(1)
    utterances.put(owner, order)
    encoder.requests[0][1].set_exception(WorkerError("it died."))
    assert owner.next() == PassFailed(order.of, "it died.")
