"""The two ends of the encoder process: whatever happens between them, the embeddings are right."""

import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.core.errors import AudioError, ModelError, StreamASRError, WorkerError
from streamasr.core.options import SessionOptions
from streamasr.core.units import Float32Array
from streamasr.engine.encoder import (
    Changed,
    EncodeAnswer,
    EncodedUtterance,
    EncodeRequest,
    EncoderWorker,
    Unknown,
    UtteranceAudio,
    UtteranceEncoder,
    encoder_worker,
)
from streamasr.engine.worker import Timeouts, Worker
from streamasr.engine.worker_config import EncoderConfig
from streamasr.models import tiny
from streamasr.models.family import Update
from streamasr.models.onnx import OnnxOptions
from streamasr.models.qwen3.encoder import Qwen3Encoder
from streamasr.models.qwen3.family import load_encoder
from streamasr.models.qwen3.growing_encoder import GrowingEncoder
from tests.support.errors import raises
from tests.support.goldens import read_clip

TIMEOUT_S = 60
ENCODER = Qwen3Encoder.from_bundle(tiny.BUNDLE, OnnxOptions(threads=1), window_s=1)
SPEECH = np.concatenate([read_clip(name) for name in ("espeak_1", "flite", "espeak_2")])

EncoderProcess = Worker[EncoderConfig, EncodeRequest, EncodeAnswer]


class ManualProcess:
    """Stands for `Worker`: answers when the test says so, dies and fails when it says so.

    What goes in and out is copied, as if it went through a pipe.
    """

    def __init__(self, capacity: int = 16) -> None:
        self._capacity = capacity
        self._waiting: deque[tuple[EncodeRequest, Future[EncodeAnswer]]] = deque()
        self.requests: list[EncodeRequest] = []
        self.answers: list[EncodeAnswer] = []
        self.die()

    def submit(self, request: EncodeRequest) -> "Future[EncodeAnswer]":
        answer: Future[EncodeAnswer] = Future()
        self._waiting.append((pickle.loads(pickle.dumps(request)), answer))
        self.requests.append(request)
        return answer

    def die(self) -> None:
        """A new child knows nothing; what waits is sent to it."""
        self.child = UtteranceEncoder(GrowingEncoder(ENCODER), self._capacity)

    def serve(self) -> None:
        """Answer the next request, if there is one."""
        if not self._waiting:
            return
        request, answer = self._waiting.popleft()
        try:
            self.answers.append(pickle.loads(pickle.dumps(self.child.answer(request))))
        except StreamASRError as error:
            answer.set_exception(WorkerError(str(error), code=error.code))
        else:
            answer.set_result(self.answers[-1])

    def serve_all(self) -> None:
        while self._waiting:
            self.serve()

    def fail(self) -> None:
        """Give the next request up, after three children have died over it."""
        if self._waiting:
            self.die()
            error = WorkerError("the encoder died 3 times.", code="worker_killed_by_request")
            self._waiting.popleft()[1].set_exception(error)

    def sent(self) -> list[tuple[int, int, int]]:
        """Of each request: first sample, number of samples, samples to encode."""
        return [(one.start, len(one.samples), one.n_samples) for one in self.requests]


def stand_before(process: ManualProcess, capacity: int = 16) -> EncoderWorker:
    return EncoderWorker(cast("EncoderProcess", process), capacity)


@pytest.fixture
def process() -> ManualProcess:
    return ManualProcess()


@pytest.fixture
def worker(process: ManualProcess) -> EncoderWorker:
    return stand_before(process)


def utterance(key: int, n_samples: int) -> UtteranceAudio:
    """Each key says something else."""
    return UtteranceAudio(key, SPEECH[key * 8000 : key * 8000 + n_samples])


def assert_right(answer: "Future[EncodedUtterance]", audio: UtteranceAudio) -> None:
    embeddings = answer.result(TIMEOUT_S).encoded.embeddings
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, ENCODER.encode(audio.samples), rtol=0, atol=1e-4)


EVENTS = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 3), st.integers(1, 60_000)),
    st.tuples(st.just("submit"), st.integers(0, 1), st.integers(8_000, 60_000)),
    st.tuples(st.sampled_from(["serve", "serve", "serve", "die", "fail"])),
    st.tuples(st.just("release"), st.integers(0, 3)),
)


@given(
    events=st.lists(EVENTS, max_size=30),
    capacities=st.tuples(st.sampled_from([0, 1, 2, 16]), st.sampled_from([0, 1, 2, 16])),
)
def test_whatever_happens_every_answer_is_right_or_an_error(
    events: list[tuple[str, int, int]], capacities: tuple[int, int]
) -> None:
    process = ManualProcess(capacities[0])
    worker = stand_before(process, capacities[1])
    submitted: list[tuple[Future[EncodedUtterance], UtteranceAudio]] = []
    n_failures = 0
    for what, *arguments in events:
        match what, arguments:
            case "submit", [key, n_samples]:
                audio = utterance(key, n_samples)
                submitted.append((worker.submit(audio), audio))
            case "release", [key]:
                worker.release(key)
            case "serve", _:
                process.serve()
            case "die", _:
                process.die()
            case "fail", _:
                n_failures += bool(process._waiting)
                process.fail()
    process.serve_all()
    assert sum(answer.exception(0) is not None for answer, _ in submitted) == n_failures
    for answer, audio in submitted:
        if not answer.exception():
            assert_right(answer, audio)
    assert len(worker._kept) <= capacities[1]
    assert not any(kept.is_reserved for kept in worker._kept.values())


def test_only_new_samples_go_in_and_only_changed_embeddings_come_out(
    worker: EncoderWorker, process: ManualProcess
) -> None:
    for n_samples in (20_000, 28_000, 40_000, 36_040, 48_000):
        audio = utterance(1, n_samples)
        answer = worker.submit(audio)
        process.serve()
        assert_right(answer, audio)
    assert process.sent() == [
        (0, 20_000, 20_000),
        (20_000, 8_000, 28_000),
        (28_000, 12_000, 40_000),
        (40_000, 0, 36_040),  # a shorter end: the child has all of it
        (40_000, 8_000, 48_000),
    ]
    firsts = [one.first for one in process.answers if isinstance(one, Changed)]
    assert firsts[0] == 0
    assert firsts[2] >= 13


def test_utterances_take_turns_without_loss(worker: EncoderWorker, process: ManualProcess) -> None:
    for n_samples in (16_000, 24_000, 32_000):
        for key in (1, 2, 3):
            answer = worker.submit(utterance(key, n_samples))
            process.serve()
            assert_right(answer, utterance(key, n_samples))
    assert [n_new for _, n_new, _ in process.sent()] == [16_000] * 3 + [8_000] * 6


def test_a_child_that_died_gets_all_samples_again(
    worker: EncoderWorker, process: ManualProcess
) -> None:
    worker.submit(utterance(1, 20_000))
    process.serve()
    process.die()
    answer = worker.submit(utterance(1, 30_000))
    process.serve()
    assert isinstance(process.answers[-1], Unknown)
    assert not answer.done()
    process.die()  # once more, before it could answer
    process.serve()
    assert_right(answer, utterance(1, 30_000))
    assert process.sent()[1:] == [(20_000, 10_000, 30_000), (0, 30_000, 30_000)]
    worker.submit(utterance(1, 31_000))
    assert process.sent()[-1] == (30_000, 1_000, 31_000)


def test_after_a_failure_an_utterance_begins_anew(
    worker: EncoderWorker, process: ManualProcess
) -> None:
    worker.submit(utterance(1, 20_000))
    process.serve()
    failed = worker.submit(utterance(1, 30_000))
    process.fail()
    with raises(WorkerError, "worker_killed_by_request"):
        failed.result(0)
    answer = worker.submit(utterance(1, 31_000))
    process.serve()
    assert_right(answer, utterance(1, 31_000))
    assert process.sent()[-1] == (0, 31_000, 31_000)


class EchoEncoder:
    """An encoder without embeddings whose result is its utterance's options and length."""

    def __init__(self) -> None:
        self.begun: list[SessionOptions] = []

    def begin(self, options: SessionOptions) -> "EchoUtterance":
        self.begun.append(options)
        return EchoUtterance(options)


class EchoUtterance:
    def __init__(self, options: SessionOptions) -> None:
        self._options = options
        self.n_samples = 0

    def append(self, samples: Float32Array) -> None:
        self.n_samples += len(samples)

    def update(self, n_samples: int) -> Update:
        return Update(result=(self._options, n_samples))


def test_an_utterance_keeps_the_options_that_it_began_with() -> None:
    process, encoder = ManualProcess(), EchoEncoder()
    process.child = UtteranceEncoder(encoder)
    worker = stand_before(process)
    english, german = SessionOptions("English"), SessionOptions("German")
    answers = []
    for n_samples, options in ((100, english), (200, english), (300, german), (400, german)):
        audio = UtteranceAudio(1, SPEECH[:n_samples], options)
        answers.append(worker.submit(audio))
        process.serve()
    results = [answer.result(0).encoded.result for answer in answers]
    assert results == [(english, 100), (english, 200), (german, 300), (german, 400)]
    assert encoder.begun == [english, german]
    assert [request.options for request in process.requests] == [english, None, german, None]
    assert len(answers[-1].result(0).encoded.embeddings) == 0


def test_other_samples_under_the_same_key_are_another_utterance(
    worker: EncoderWorker, process: ManualProcess
) -> None:
    worker.submit(utterance(1, 20_000))
    process.serve()
    other = UtteranceAudio(1, utterance(2, 30_000).samples)
    answer = worker.submit(other)
    process.serve()
    assert_right(answer, other)
    assert process.sent()[-1] == (0, 30_000, 30_000)


def test_a_second_request_under_way_for_the_same_key_stands_alone(
    worker: EncoderWorker, process: ManualProcess
) -> None:
    sizes = (20_000, 30_000, 25_000)
    answers = [worker.submit(utterance(1, n_samples)) for n_samples in sizes]
    process.serve_all()
    for answer, n_samples in zip(answers, sizes, strict=True):
        assert_right(answer, utterance(1, n_samples))
    assert [start for start, _, _ in process.sent()] == [0, 0, 0]


def test_what_is_released_leaves_both_sides(worker: EncoderWorker, process: ManualProcess) -> None:
    for key in (1, 2):
        worker.submit(utterance(key, 16_000))
    process.serve_all()
    assert len(process.child._utterances) == 2
    worker.release(1)
    worker.release(3)  # never heard of
    worker.submit(utterance(2, 17_000))
    process.serve_all()
    assert len(process.child._utterances) == 1
    worker.submit(utterance(1, 17_000))
    assert process.sent()[-1] == (0, 17_000, 17_000)


@pytest.mark.parametrize("dies", [False, True])
def test_what_is_released_under_way_is_answered_and_then_forgotten(
    worker: EncoderWorker, process: ManualProcess, dies: bool
) -> None:
    worker.submit(utterance(1, 16_000))
    process.serve()
    answer = worker.submit(utterance(1, 17_000))
    worker.release(1)
    if dies:
        process.die()
    process.serve_all()
    assert_right(answer, utterance(1, 17_000))
    worker.submit(utterance(2, 16_000))
    process.serve_all()
    assert len(process.child._utterances) == len(worker._kept) == 1


def test_the_utterance_that_was_asked_for_last_stays_longest() -> None:
    process = ManualProcess()
    worker = stand_before(process, capacity=2)
    for key, start in ((1, 0), (2, 0), (1, 16_000), (3, 0), (1, 16_000), (2, 0)):
        worker.submit(utterance(key, 16_000))
        process.serve_all()
        assert process.requests[-1].start == start
    assert len(process.child._utterances) == 2


def test_embeddings_stay_as_they_were_given_out(
    worker: EncoderWorker, process: ManualProcess
) -> None:
    given_out = []
    for n_samples in range(8_000, 60_000, 5_000):
        answer = worker.submit(utterance(1, n_samples))
        process.serve()
        given_out.append((answer.result(0).encoded.embeddings, n_samples))
    for embeddings, n_samples in given_out:
        expected = ENCODER.encode(utterance(1, n_samples).samples)
        np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-4)
        with pytest.raises(ValueError, match="read-only"):
            embeddings[0] = 0


@pytest.mark.parametrize(
    ("samples", "code"),
    [
        (np.zeros(0, np.float32), "no_audio"),
        (np.zeros(8000), "audio_type"),
        (np.zeros((2, 8000), np.float32), "audio_axes"),
    ],
)
def test_an_array_that_is_not_audio_is_not_sent(
    worker: EncoderWorker, process: ManualProcess, samples: Float32Array, code: str
) -> None:
    with raises(AudioError, code):
        worker.submit(UtteranceAudio(1, samples)).result(0)
    assert not process.requests


def test_samples_that_are_not_finite_are_refused_and_forgotten(
    worker: EncoderWorker, process: ManualProcess
) -> None:
    broken = utterance(1, 20_000).samples.copy()
    broken[17_000] = np.nan
    worker.submit(UtteranceAudio(1, broken[:16_000]))
    refused = worker.submit(UtteranceAudio(1, broken))
    process.serve_all()
    with raises(WorkerError, "audio_not_finite"):
        refused.result(0)
    answer = worker.submit(utterance(1, 21_000))
    process.serve_all()
    assert_right(answer, utterance(1, 21_000))


@pytest.mark.parametrize(
    "request_",
    [
        EncodeRequest(1, 0, SPEECH[:0], 0),
        EncodeRequest(1, 0, SPEECH[:8000], 8001),
        EncodeRequest(1, 0, SPEECH[:8000], -1),
    ],
)
def test_the_child_refuses_what_cannot_be(request_: EncodeRequest) -> None:
    with raises(AudioError, "samples_out_of_range"):
        UtteranceEncoder(GrowingEncoder(ENCODER)).answer(request_)


@pytest.mark.parametrize(
    "changed",
    [
        Changed(9, np.zeros((1, ENCODER.output_dim), np.float32), 0.0),
        Changed(-1, np.zeros((1, ENCODER.output_dim), np.float32), 0.0),
        Changed(1, np.zeros((1, 7), np.float32), 0.0),
        Changed(0, np.zeros(7, np.float32), 0.0),
        Changed(0, np.zeros((1, ENCODER.output_dim)), 0.0),  # type: ignore[arg-type] # float64
    ],
)
def test_an_answer_that_does_not_fit_is_an_error(
    worker: EncoderWorker, process: ManualProcess, changed: Changed
) -> None:
    worker.submit(utterance(1, 8_000))  # 7 tokens
    process.serve()
    answer = worker.submit(utterance(1, 9_000))
    process._waiting.popleft()[1].set_result(changed)
    with raises(WorkerError, "encoding_does_not_fit"):
        answer.result(0)
    worker.submit(utterance(1, 9_000))
    assert process.sent()[-1][0] == 0


# From here on with a real child.


def real(**settings: object) -> EncoderWorker:
    config = EncoderConfig(tiny.BUNDLE, 1, **settings)  # type: ignore[arg-type]
    return encoder_worker(load_encoder, config, Timeouts(), lambda _trouble, _sentence: None)


@pytest.fixture(scope="module")
def child() -> Iterator[EncoderWorker]:
    worker = real(window_s=1)
    worker.start()
    try:
        worker.wait_ready()
        yield worker
    finally:
        worker.stop()


def kill(worker: EncoderWorker) -> None:
    assert worker.pid
    os.kill(worker.pid, signal.SIGKILL)


def test_a_growing_utterance_is_encoded_through_kills(child: EncoderWorker) -> None:
    restarts = child.restarts
    for index, n_samples in enumerate(range(8_000, 80_000, 8_000)):
        if index == 3:
            kill(child)
        answer = child.submit(utterance(1, n_samples))
        if index == 6:
            kill(child)
        assert_right(answer, utterance(1, n_samples))
    assert child.restarts == restarts + 2
    child.release(1)
    assert child.is_alive


def test_many_threads_may_ask_for_the_same_and_for_others(child: EncoderWorker) -> None:
    answers: dict[tuple[int, int], Future[EncodedUtterance]] = {}

    def ask(thread: int) -> None:
        for n_samples in range(10_000, 50_000, 10_000):
            key = thread // 2  # two of them at a time
            answers[thread, n_samples] = child.submit(utterance(key, n_samples))
            if n_samples == 30_000:
                child.release(key)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 24
    for (thread_number, n_samples), answer in answers.items():
        assert_right(answer, utterance(thread_number // 2, n_samples))


def test_without_reuse_everything_is_sent_and_encoded_each_time() -> None:
    worker = real(window_s=1, reuse=False)
    sent: list[EncodeRequest] = []
    process = worker._process
    submit = process.submit

    def spy(request: EncodeRequest) -> "Future[EncodeAnswer]":
        sent.append(request)
        return submit(request)

    process.submit = spy  # type: ignore[method-assign]
    worker.start()
    try:
        for n_samples in (16_000, 24_000, 32_000):
            assert_right(worker.submit(utterance(1, n_samples)), utterance(1, n_samples))
    finally:
        worker.stop()
    assert [len(request.samples) for request in sent] == [16_000, 24_000, 32_000]
    assert not worker._kept


def test_a_window_that_the_bundle_cannot_have_is_a_sentence() -> None:
    worker = real(window_s=3)
    worker.start()
    with raises(ModelError, "encoder_window"):
        worker.wait_ready()
    worker.stop()
    with raises(WorkerError, "worker_not_running"):
        worker.submit(utterance(1, 8_000)).result(0)


def test_a_missing_bundle_is_reported(tmp_path: Path) -> None:
    config = EncoderConfig(tmp_path, 1)
    worker = encoder_worker(load_encoder, config, Timeouts(), lambda _trouble, _sentence: None)
    worker.start()
    with raises(ModelError, "window_unreadable"):
        worker.wait_ready()
    worker.stop()
