"""Worker processes, with real children that do little."""

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from streamasr.core.errors import ModelError, WorkerError
from streamasr.engine.cpu_fallback import DEATHS_PER_REQUEST, FAILED_STARTS, CpuFallback
from streamasr.engine.worker import Timeouts, Worker, restart_pause
from tests.support import children
from tests.support.errors import raises
from tests.support.processes import wait_gone

TIMEOUT_S = 30

Calculator = Worker[int, children.Request, Any]


@pytest.fixture
def worker() -> Iterator[Calculator]:
    with Calculator("calculator", children.build_calculator, 100) as running:
        running.wait_ready()
        yield running


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_answers_come_in_order(worker: Calculator) -> None:
    answers = [worker.submit(n) for n in range(50)]
    assert [answer.result(TIMEOUT_S) for answer in answers] == list(range(100, 150))


def test_the_child_is_another_process(worker: Calculator) -> None:
    assert worker.submit(os.getpid).result(TIMEOUT_S) == worker.pid != os.getpid()


def test_requests_may_be_queued_before_the_child_is_ready() -> None:
    with Worker("calculator", children.build_calculator, 1) as worker:
        assert worker.submit(1).result(TIMEOUT_S) == 2


def test_requests_from_many_threads_get_their_own_answers(
    worker: Calculator,
) -> None:
    results: dict[int, int] = {}

    def ask(n: int) -> None:
        results[n] = worker.submit(n).result(TIMEOUT_S)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: 100 + n for n in range(20)}


def test_the_process_has_the_name_of_its_worker() -> None:
    with Worker("encoder", children.build_calculator, 0) as worker:
        title, comm = worker.submit(children.titles).result(TIMEOUT_S)
        assert Path(f"/proc/{worker.pid}/cmdline").read_text().rstrip("\0 ") == title
    assert title == "streamasr: encoder"
    assert comm == "streamasr: enco"  # the kernel keeps 15 bytes


def test_a_broken_model_is_reported_at_the_start() -> None:
    with Worker("w", children.build_broken, "the file is missing") as worker:
        with raises(ModelError, "model_file_missing"):
            worker.wait_ready()
        with pytest.raises(WorkerError):
            worker.submit(1).result(TIMEOUT_S)


def test_a_child_that_dies_at_every_start_is_given_up() -> None:
    with Worker("w", children.build_dying, None) as worker:
        answer = worker.submit(1)
        with raises(WorkerError, "worker_never_ready") as caught:
            worker.wait_ready()
        assert f"died {FAILED_STARTS} times" in str(caught.value)
        with pytest.raises(WorkerError):
            answer.result(TIMEOUT_S)


def test_a_death_while_starting_costs_nothing(tmp_path: Path) -> None:
    with Worker("w", children.build_dying_once, tmp_path / "marker") as worker:
        assert worker.submit(7).result(TIMEOUT_S) == 7
        assert worker.restarts == 1


def test_a_kill_while_starting_costs_nothing(fifo: Path) -> None:
    with Worker("w", children.build_stuck, fifo, Timeouts(start=600)) as worker:
        for _ in range(FAILED_STARTS - 1):
            assert fifo.read_text() == "started"
            kill(worker.pid)
        assert fifo.read_text() == "started"
        assert worker.restarts == FAILED_STARTS - 1


def test_a_death_while_idle_costs_nothing(worker: Calculator) -> None:
    for n in range(3):
        first = worker.pid
        kill(first)
        assert worker.submit(n).result(TIMEOUT_S) == 100 + n
        assert worker.pid != first
    assert worker.restarts == 3


def test_a_death_over_a_request_costs_no_answer(worker: Calculator, tmp_path: Path) -> None:
    before = [worker.submit(n) for n in range(3)]
    killer = worker.submit(partial(children.die_once, tmp_path / "marker"))
    after = [worker.submit(n) for n in range(3)]
    wait([*before, killer, *after], TIMEOUT_S)
    assert killer.result() == "survived"
    assert [answer.result() for answer in [*before, *after]] == [100, 101, 102] * 2


def test_a_kill_in_the_middle_of_a_request_sends_it_again(worker: Calculator, fifo: Path) -> None:
    answer = worker.submit(partial(children.tell_and_hang, fifo))
    for _ in range(DEATHS_PER_REQUEST):
        assert fifo.read_text() == "started"
        assert not answer.done()
        kill(worker.pid)
    with raises(WorkerError, "worker_killed_by_request"):
        answer.result(TIMEOUT_S)


@pytest.mark.parametrize("request_", [children.die, children.leave, children.crash])
def test_a_request_that_always_kills_is_given_up_and_the_next_goes_on(
    worker: Calculator, request_: children.Request
) -> None:
    killer, after = worker.submit(request_), worker.submit(1)
    with raises(WorkerError, "worker_killed_by_request"):
        killer.result(TIMEOUT_S)
    assert after.result(TIMEOUT_S) == 101
    assert worker.restarts == DEATHS_PER_REQUEST


def test_deaths_are_logged_with_their_reason(
    worker: Calculator, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        wait([worker.submit(children.leave), worker.submit(children.die)], TIMEOUT_S)
    assert "exit code 3" in caplog.text
    assert "signal SIGKILL" in caplog.text


def test_a_refusal_is_an_answer(worker: Calculator) -> None:
    with raises(WorkerError, "not_with_me"):
        worker.submit(children.refuse).result(TIMEOUT_S)
    assert worker.submit(1).result(TIMEOUT_S) == 101
    assert worker.restarts == 0


def test_a_model_that_vanishes_fails_what_waits(tmp_path: Path) -> None:
    with Worker("w", children.build_broken_later, tmp_path / "marker") as worker:
        worker.wait_ready()
        answer = worker.submit(children.die)
        with raises(ModelError, "file_gone"):
            answer.result(TIMEOUT_S)
        with raises(WorkerError, "worker_not_running"):
            worker.submit(1).result(TIMEOUT_S)


def test_a_hung_child_is_replaced() -> None:
    timeouts = Timeouts(answer=0.2)
    with Worker("w", children.build_calculator, 100, timeouts) as worker:
        worker.wait_ready()
        hung, after = worker.submit(children.hang), worker.submit(1)
        with raises(WorkerError, "worker_killed_by_request"):
            hung.result(TIMEOUT_S)
        assert after.result(TIMEOUT_S) == 101


LARGE = b"x" * 10_000_000


def test_a_child_that_stops_reading_is_replaced() -> None:
    with Worker("w", children.build_calculator, 0, Timeouts(answer=1)) as worker:
        worker.wait_ready()
        assert worker.pid
        os.kill(worker.pid, signal.SIGSTOP)
        assert worker.submit(partial(len, LARGE)).result(TIMEOUT_S) == len(LARGE)
        assert worker.restarts == 1


def test_a_child_that_stops_while_it_answers_is_replaced(tmp_path: Path) -> None:
    with Worker("w", children.build_calculator, 0, Timeouts(answer=2)) as worker:
        worker.wait_ready()
        answer = worker.submit(partial(children.stop_in_the_middle_once, tmp_path / "marker"))
        assert answer.result(TIMEOUT_S) == "whole"
        assert worker.restarts == 1


def test_stop_does_not_wait_for_a_child_that_does_not_read(worker: Calculator) -> None:
    assert worker.pid
    os.kill(worker.pid, signal.SIGSTOP)
    answer = worker.submit(partial(len, LARGE))
    worker.stop()
    with raises(WorkerError, "worker_stopped"):
        answer.result(0)


def test_a_child_that_never_gets_ready_is_given_up() -> None:
    with (
        Worker("w", children.build_never_ready, None, Timeouts(start=0.2)) as worker,
        raises(WorkerError, "worker_never_ready"),
    ):
        worker.wait_ready()


@pytest.mark.parametrize(
    ("wanted", "why"), [(-1, "signal SIGKILL"), (0, "it did not answer within 5 s")]
)
def test_what_kills_or_hangs_a_child_while_it_starts_is_done_without(wanted: int, why: str) -> None:
    troubles: list[tuple[str, str]] = []
    worker = Worker(
        "w",
        children.build_unless_negative,
        wanted,
        Timeouts(start=5 if wanted == 0 else 300),
        lambda *trouble: troubles.append(trouble),
        fallback=CpuFallback(100, "the GPU"),
    )
    with worker:
        answer = worker.submit(1)
        worker.wait_ready()
        assert answer.result(TIMEOUT_S) == 101
        assert worker.restarts == 1
        kill(worker.pid)
        assert worker.submit(1).result(TIMEOUT_S) == 101
    assert [trouble for trouble, _ in troubles] == ["worker_died", "degraded", "worker_died"]
    assert troubles[1][1] == (
        f"w: the GPU cannot be used, so the CPU is: the process died ({why})."
    )


def test_where_there_is_nothing_else_to_do_without_a_child_is_given_up() -> None:
    worker = Worker("w", children.build_unless_negative, -1, fallback=CpuFallback(-2, "the GPU"))
    with worker, raises(WorkerError, "worker_never_ready"):
        worker.wait_ready()
    assert worker.restarts == FAILED_STARTS


def test_a_request_that_would_be_given_up_is_first_tried_otherwise() -> None:
    troubles: list[str] = []
    worker = Worker(
        "w",
        children.build_mortal,
        True,
        on_trouble=lambda trouble, _: troubles.append(trouble),
        fallback=CpuFallback(False, "the GPU"),
    )
    with worker:
        worker.wait_ready()
        assert worker.submit(1).result(TIMEOUT_S) == 1
        answer, after = worker.submit(2), worker.submit(1)
        assert answer.result(TIMEOUT_S) == 2
        assert after.result(TIMEOUT_S) == 1
        assert worker.restarts == DEATHS_PER_REQUEST
        with raises(WorkerError, "worker_killed_by_request"):
            worker.submit(children.die).result(TIMEOUT_S)
    died = ["worker_died"] * DEATHS_PER_REQUEST
    assert troubles == [*died, "degraded", *died]


def test_deaths_that_cost_no_request_change_nothing(tmp_path: Path) -> None:
    fallback = CpuFallback(0, "the GPU")
    with Worker("w", children.build_calculator, 100, fallback=fallback) as worker:
        for n in range(FAILED_STARTS):
            answer = worker.submit(partial(children.die_once, tmp_path / f"died {n}"))
            assert answer.result(TIMEOUT_S) == "survived"
        assert worker.submit(1).result(TIMEOUT_S) == 101
    assert not fallback.is_taken


def test_once_ready_a_worker_keeps_trying_to_start(tmp_path: Path) -> None:
    troubles: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    worker = Worker(
        "w", children.build_dying_often, tmp_path, on_trouble=lambda *t: troubles.put(t)
    )
    with worker:
        worker.wait_ready()
        assert worker.is_ready
        answer = worker.submit(partial(children.die_once, tmp_path / "died"))
        assert answer.result(TIMEOUT_S) == "survived"
        assert worker.restarts == 1 + children.N_DEATHS > FAILED_STARTS
        assert worker.is_alive
    assert not worker.is_alive
    assert not worker.is_ready
    told = [troubles.get() for _ in range(troubles.qsize())]
    assert [trouble for trouble, _ in told] == ["worker_died"] * (1 + children.N_DEATHS)
    assert "signal SIGKILL" in told[0][1]


def test_the_end_of_a_worker_is_reported(tmp_path: Path) -> None:
    troubles: list[tuple[str, str]] = []

    def on_trouble(trouble: str, sentence: str) -> None:
        troubles.append((trouble, sentence))
        raise ZeroDivisionError  # a listener's fault is its own

    marker = tmp_path / "marker"
    with Worker("w", children.build_broken_later, marker, on_trouble=on_trouble) as worker:
        with pytest.raises(ModelError):
            worker.submit(children.die).result(TIMEOUT_S)
        assert not worker.is_alive
    assert [trouble for trouble, _ in troubles] == ["worker_died", "worker_lost"]
    assert troubles[1][1] == "the w process has ended for good: the file has gone"


def test_a_worker_is_ready_once_its_child_is(fifo: Path) -> None:
    with Worker("w", children.build_after_reading, fifo) as worker:
        assert worker.is_alive
        assert not worker.is_ready
        fifo.write_text("go on")
        worker.wait_ready()
        assert worker.submit(1).result(TIMEOUT_S) == 1
        assert worker.is_ready


def test_an_answer_cannot_be_cancelled(worker: Calculator) -> None:
    answer = worker.submit(1)
    assert not answer.cancel()
    assert answer.result(TIMEOUT_S) == 101


def test_a_fault_of_the_supervisor_itself_fails_what_waits(
    worker: Calculator,
) -> None:
    answer, after = worker.submit(children.NotPicklable()), worker.submit(1)
    for future in (answer, after):
        with raises(WorkerError, "supervisor_failed"):
            future.result(TIMEOUT_S)


def test_stop_ends_an_idle_child() -> None:
    with Worker("w", children.build_calculator, 0) as worker:
        worker.wait_ready()
        pid = worker.pid
    assert pid is not None
    assert not is_alive(pid)


def test_stop_ends_a_busy_child_at_once_and_fails_its_requests(fifo: Path) -> None:
    worker: Calculator = Worker("w", children.build_calculator, 0)
    worker.start()
    busy, waiting = worker.submit(partial(children.tell_and_hang, fifo)), worker.submit(1)
    assert fifo.read_text() == "started"
    pid = worker.pid
    assert pid is not None
    worker.stop()
    assert not is_alive(pid)
    for answer in (busy, waiting):
        with raises(WorkerError, "worker_stopped"):
            answer.result(0)
    with raises(WorkerError, "worker_not_running"):
        worker.submit(1).result(0)


def test_stop_ends_a_child_that_is_still_loading(fifo: Path) -> None:
    worker = Worker("w", children.build_stuck, fifo)
    worker.start()
    assert fifo.read_text() == "started"
    pid = worker.pid
    assert pid is not None
    worker.stop()
    assert not is_alive(pid)
    with raises(WorkerError, "worker_stopped"):
        worker.wait_ready()


def test_stop_may_be_called_twice_and_before_start() -> None:
    worker = Worker("w", children.build_calculator, 0)
    worker.stop()
    worker.stop()
    with pytest.raises(WorkerError):
        worker.submit(1).result(0)


def test_stop_while_a_restart_is_due_does_not_wait_for_it() -> None:
    worker = Worker("w", children.build_dying, None)
    worker.start()
    worker.submit(1)
    worker.stop()
    assert worker.pid is None or not is_alive(worker.pid)


def test_restarts_leak_no_descriptors(worker: Calculator) -> None:
    def n_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    kill(worker.pid)
    worker.submit(0).result(TIMEOUT_S)
    before = n_open()
    for n in range(20):
        kill(worker.pid)
        worker.submit(n).result(TIMEOUT_S)
    assert n_open() <= before
    assert worker.restarts == 21


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2],
)
def test_signals_of_people_are_left_to_the_parent(
    worker: Calculator, number: signal.Signals
) -> None:
    first = worker.submit(os.getpid).result(TIMEOUT_S)
    os.kill(first, number)
    assert worker.submit(os.getpid).result(TIMEOUT_S) == first
    assert worker.restarts == 0


def test_children_block_signals_from_their_first_instruction(worker: Calculator) -> None:
    blocked = worker.submit(children.blocked_signals).result(TIMEOUT_S)
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= blocked
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


PARENT = "import sys; from tests.support.children import run_parent; run_parent(sys.argv[1])"


@contextlib.contextmanager
def parent_of_children(occupation: str) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process with an idle, a hanging and a computing child, and their ids."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, occupation],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3
        yield parent, pids


def test_busy_children_end_with_a_parent_that_is_killed() -> None:
    with parent_of_children("wait") as (parent, pids):
        parent.kill()
        for pid in pids:
            wait_gone(pid)


def test_busy_children_end_with_a_parent_that_ends() -> None:
    with parent_of_children("leave") as (parent, pids):
        assert parent.wait(TIMEOUT_S) == 0
        for pid in pids:
            wait_gone(pid)


def test_a_worker_pauses_longer_between_more_failed_starts_in_a_row() -> None:
    started = time.monotonic()
    with Worker("w", children.build_dying, None) as worker, pytest.raises(WorkerError):
        worker.wait_ready()
    assert time.monotonic() - started >= 0.1 + 0.2 + 0.4


def test_pauses_grow_to_a_limit() -> None:
    pauses = [restart_pause(deaths) for deaths in range(1, 2000)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 0
    assert pauses[-1] == 5
