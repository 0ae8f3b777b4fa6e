"""Children that come and go, with real ones that do little."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from streamasr.core.errors import ModelError, WorkerError
from streamasr.engine.cpu_fallback import FAILED_STARTS, CpuFallback
from streamasr.engine.on_demand import OnDemand
from streamasr.engine.ports import OnTrouble
from streamasr.engine.worker import Worker
from tests.support import children
from tests.support.errors import raises
from tests.support.processes import wait_gone

TIMEOUT_S = 60
LONG_S = 3600

Calculator: TypeAlias = OnDemand[children.Request, Any]


def maker(
    build: Callable[[Any], children.Answer] = children.build_calculator,
    config: object = 100,
    on_trouble: OnTrouble = lambda *_: None,
) -> Callable[[], Worker[Any, children.Request, Any]]:
    return lambda: Worker("calculator", build, config, on_trouble=on_trouble)


@pytest.fixture
def lasting() -> Iterator[Calculator]:
    """Its child stays as long as any test."""
    with OnDemand(maker(), LONG_S) as running:
        yield running


@pytest.fixture
def restless() -> Iterator[Calculator]:
    """Its child ends as soon as nothing is owed."""
    with OnDemand(maker(), 0) as running:
        yield running


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_there_is_no_child_before_it_is_needed(lasting: Calculator) -> None:
    lasting.wait_ready()
    assert lasting.pid is None
    assert lasting.is_alive
    assert not lasting.is_ready


def test_a_request_needs_no_wake(lasting: Calculator) -> None:
    assert lasting.submit(1).result(TIMEOUT_S) == 101
    assert lasting.is_ready


def test_what_was_woken_is_ready_for_the_request(lasting: Calculator) -> None:
    lasting.wake()
    lasting.wake()
    lasting.wait_ready()
    pid = lasting.pid
    assert pid is not None
    assert lasting.submit(os.getpid).result(TIMEOUT_S) == pid


def test_a_child_that_is_used_stays(lasting: Calculator) -> None:
    pids = {lasting.submit(os.getpid).result(TIMEOUT_S) for _ in range(10)}
    assert pids == {lasting.pid}


def test_an_idle_child_ends_and_another_takes_the_next_request(
    restless: Calculator, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        first = restless.submit(os.getpid).result(TIMEOUT_S)
        wait_gone(first)
        assert restless.submit(os.getpid).result(TIMEOUT_S) != first
    assert "calculator ends after 0 s without work" in caplog.text
    assert restless.is_alive
    assert restless.restarts == 0


def test_a_child_that_was_woken_in_vain_ends_too_but_not_while_it_loads(fifo: Path) -> None:
    with OnDemand(maker(children.build_after_reading, fifo), 0) as worker:
        worker.wake()
        pid = worker.pid
        while pid is None:  # it is started by another thread
            pid = worker.pid
        fifo.write_text("go on")  # waits until it reads
        wait_gone(pid)
        assert worker.restarts == 0


def test_a_busy_child_is_not_idle(restless: Calculator, fifo: Path) -> None:
    answer = restless.submit(fifo.read_text)
    fifo.write_text("read by the same child that began to wait for it")
    assert answer.result(TIMEOUT_S) == "read by the same child that began to wait for it"
    assert restless.restarts == 0


def test_no_request_is_lost_to_an_end(restless: Calculator) -> None:
    answers: dict[int, Future[Any]] = {}

    def ask(first: int) -> None:
        for n in range(first, first + 5):
            answers[n] = restless.submit(n)
            if n % 2:
                answers[n].result(TIMEOUT_S)  # so that the child becomes idle now and then

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(0, 20, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n: answer.result(TIMEOUT_S) for n, answer in answers.items()} == {
        n: 100 + n for n in range(20)
    }


def test_deaths_are_counted_over_all_children(restless: Calculator, tmp_path: Path) -> None:
    for n in range(1, 4):
        answer = restless.submit(partial(children.die_once, tmp_path / f"marker {n}"))
        assert answer.result(TIMEOUT_S) == "survived"
        assert restless.restarts == n
        wait_gone(restless.submit(os.getpid).result(TIMEOUT_S))


def test_a_death_costs_no_answer(lasting: Calculator, tmp_path: Path) -> None:
    answer = lasting.submit(partial(children.die_once, tmp_path / "marker"))
    assert answer.result(TIMEOUT_S) == "survived"


def test_a_broken_model_is_lost_for_good_and_told_once() -> None:
    troubles: list[tuple[str, str]] = []
    build = maker(children.build_broken, "the file is missing", lambda *t: troubles.append(t))
    with OnDemand(build, 0.0) as worker:
        with pytest.raises((ModelError, WorkerError)):
            worker.submit(1).result(TIMEOUT_S)
        while worker.is_alive:  # it is given up in another thread
            worker.wake()
        for _ in range(3):
            with pytest.raises(WorkerError):
                worker.submit(1).result(TIMEOUT_S)
        assert not worker.is_alive
    assert [sentence for _, sentence in troubles] == [
        "the calculator process has ended for good: the file is missing"
    ]


def test_a_model_that_is_broken_later_is_lost_then(tmp_path: Path) -> None:
    build = maker(children.build_broken_later, tmp_path / "marker")
    with OnDemand(build, LONG_S) as worker:
        assert worker.submit(1).result(TIMEOUT_S) == 1
        with raises(ModelError, "file_gone"):
            worker.submit(children.die).result(TIMEOUT_S)
        assert not worker.is_alive


def test_a_child_that_keeps_dying_at_its_start_is_tried_again_after_a_rest(
    tmp_path: Path,
) -> None:
    assert children.N_DEATHS == FAILED_STARTS
    with OnDemand(maker(children.build_dying_often, tmp_path), 0.0) as worker:
        first = worker.submit(os.getpid).result(TIMEOUT_S)
        wait_gone(first)
        with raises(WorkerError, "worker_never_ready"):
            worker.submit(1).result(TIMEOUT_S)
        answer = worker.submit(1)
        while isinstance(answer.exception(TIMEOUT_S), WorkerError):  # it rests for a moment
            answer = worker.submit(1)
        assert answer.result() == 1


def test_what_one_child_died_of_the_next_ones_do_without() -> None:
    troubles: list[str] = []
    fallback = CpuFallback(7, "the GPU")
    on_trouble: OnTrouble = lambda trouble, _: troubles.append(trouble)  # noqa: E731
    with OnDemand(
        lambda: Worker(
            "calculator",
            children.build_unless_negative,
            -7,
            on_trouble=on_trouble,
            fallback=fallback,
        ),
        0,
    ) as worker:
        for _ in range(3):
            assert worker.submit(1).result(TIMEOUT_S) == 8
            wait_gone(worker.submit(os.getpid).result(TIMEOUT_S))
        assert worker.restarts == 1
    assert troubles == ["worker_died", "degraded"]


def test_while_it_rests_requests_fail_at_once_and_do_not_prolong_it(tmp_path: Path) -> None:
    (tmp_path / "start 0").touch()  # as if it had been good once
    with OnDemand(maker(children.build_dying_often, tmp_path), LONG_S) as worker:
        with raises(WorkerError, "worker_never_ready"):
            worker.submit(1).result(TIMEOUT_S)
        assert not worker.is_alive
        worker.wake()
        with raises(WorkerError, "worker_not_running"):
            worker.submit(1).result(0)
        assert not worker.is_alive


def test_without_a_limit_the_child_is_there_from_the_start() -> None:
    with OnDemand(maker(), None) as worker:
        worker.wait_ready()
        assert worker.is_ready
        pid = worker.pid
        assert worker.submit(os.getpid).result(TIMEOUT_S) == pid


def test_without_a_limit_a_broken_model_is_reported_at_the_start() -> None:
    build = maker(children.build_broken, "the file is missing")
    with (
        OnDemand(build, None) as worker,
        raises(ModelError, "model_file_missing"),
    ):
        worker.wait_ready()


def test_stop_ends_an_idle_child(lasting: Calculator) -> None:
    pid = lasting.submit(os.getpid).result(TIMEOUT_S)
    lasting.stop()
    wait_gone(pid)
    assert not lasting.is_alive


def test_stop_ends_a_busy_child_at_once_and_fails_its_requests(
    lasting: Calculator, fifo: Path
) -> None:
    busy, waiting = lasting.submit(partial(children.tell_and_hang, fifo)), lasting.submit(1)
    assert fifo.read_text() == "started"
    lasting.stop()
    for answer in (busy, waiting):
        with raises(WorkerError, "worker_stopped"):
            answer.result(0)
    lasting.wake()
    assert lasting.pid is None
    with raises(WorkerError, "worker_not_running"):
        lasting.submit(1).result(0)


def test_stop_ends_a_child_that_is_still_loading(fifo: Path) -> None:
    with OnDemand(maker(children.build_stuck, fifo), LONG_S) as worker:
        worker.wake()
        assert fifo.read_text() == "started"


def test_stop_may_be_called_twice_and_before_start() -> None:
    worker: Calculator = OnDemand(maker(), LONG_S)
    answer = worker.submit(1)
    worker.stop()
    worker.stop()
    wait([answer], TIMEOUT_S)
    assert not worker.is_alive


def test_where_no_child_can_be_made_the_request_fails_and_the_next_may_not() -> None:
    troubles = [OSError(24, "Too many open files")]

    def make_one() -> Worker[Any, children.Request, Any]:
        if troubles:
            raise troubles.pop()
        return maker()()

    with OnDemand(make_one, LONG_S) as worker:
        with raises(WorkerError, "worker_not_startable"):
            worker.submit(1).result(0)
        assert worker.submit(1).result(TIMEOUT_S) == 101


def test_children_that_come_and_go_leak_no_descriptors_and_no_threads(
    restless: Calculator,
) -> None:
    def n_open() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    def come_and_go() -> tuple[int, int]:
        wait_gone(restless.submit(os.getpid).result(TIMEOUT_S))
        return n_open()

    before = [come_and_go() for _ in range(3)]
    after = [come_and_go() for _ in range(6)]
    for these in zip(*after, strict=True):
        assert min(these) <= max(max(before))
