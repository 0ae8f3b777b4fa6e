"""Worker: a child process that answers requests, and is replaced when it dies.

The parent keeps every request until its answer has come. When the child dies (a crash in a native
library, the kernel's out-of-memory killer, a `kill`), a new one is started and the requests are
sent again, so that a death costs time and never an answer. A request that has killed its child
several times fails with a `WorkerError`, and the next one is sent. If the GPU or execution provider
of a child may be the cause, the next child is built for the CPU first (`CpuFallback`).

A child that is never ready ends the worker: something is wrong with the machine, and the program
can report it at its start. Once a child was ready, a worker keeps trying, with longer pauses; only
a broken model ends it.

Children inherit no locks, threads or file descriptors, and import nothing of the program that uses
them (see `child_process`). A child ends with its parent, however that ends, and ignores the signals
that people send to the process group.
"""

import atexit
import collections
import contextlib
import logging
import math
import multiprocessing
import multiprocessing.connection
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final, Generic, Self

from streamasr.core.errors import ModelError, StreamASRError, WorkerError
from streamasr.engine.child import (
    AnswerT,
    Broken,
    Build,
    ConfigT,
    Ready,
    Refused,
    RequestT,
    process_title,
    run_child,
)
from streamasr.engine.child_process import ChildProcess, start
from streamasr.engine.cpu_fallback import (
    DEATHS_PER_REQUEST,
    FAILED_STARTS,
    CpuFallback,
    Death,
    is_hopeless,
)
from streamasr.engine.ports import OnTrouble, Trouble

logger = logging.getLogger(__name__)

_STOP_TIMEOUT_S: Final = 2.0
_SHORTEST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0

_PARENTS_SIGNALS: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""Ctrl-C, a closing terminal and a service manager signal the whole group of processes; only the
parent reacts."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds after which a silent child counts as dead."""

    start: float = 300.0
    """Until it is ready: enough for a large model from a cold disk."""
    answer: float = 60.0
    """Until it answers: several times as long as a segment takes."""


@dataclass(slots=True)
class _Job(Generic[RequestT, AnswerT]):
    request: RequestT
    answer: "Future[AnswerT]"
    deaths: int = 0


class Worker(Generic[ConfigT, RequestT, AnswerT]):
    """The parent's end of one child process."""

    def __init__(
        self,
        name: str,
        build: Build[ConfigT, RequestT, AnswerT],
        config: ConfigT,
        timeouts: Timeouts = Timeouts(),
        on_trouble: OnTrouble = lambda _trouble, _sentence: None,
        *,
        fallback: CpuFallback[ConfigT] | None = None,
    ) -> None:
        """Prepare a worker; `start` makes the process.

        Args:
            name: for the log and the process list.
            build: called in the child: loads the models, returns the function that answers
                requests. A module-level function, or a partial of one, so that it can be pickled by
                name. Heavy imports belong inside it.
            config: sent to the child.
            timeouts: a child that is silent for longer is treated as dead.
            on_trouble: receives deaths, and the warnings of a child that is ready.
            fallback: another configuration, for when children die of `config`.
        """
        self._name = name
        self._build = build
        self._config = config
        self._timeouts = timeouts
        self._on_trouble = on_trouble
        self._fallback = fallback
        self._jobs: collections.deque[_Job[RequestT, AnswerT]] = collections.deque()
        self._wake_receiver, self._wake_sender = multiprocessing.Pipe(duplex=False)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._process: ChildProcess | None = None
        self._serving: _Job[RequestT, AnswerT] | None = None  # sent to the present child
        self._thread = threading.Thread(target=self._run, name=f"{name} supervisor", daemon=True)
        # The child with which a message is being exchanged at this moment.
        self._partner: ChildProcess | None = None
        self._has_ready_child = False
        self._has_answered = False  # the present child, anything
        self.restarts = 0
        self.ready: Future[None] = Future()
        """Done once its first child has loaded its models, or with what `wait_ready` raises."""
        self.failure: StreamASRError | None = None
        """Why it was given up, if it was."""

    @property
    def name(self) -> str:
        """Name in the log and the process list."""
        return self._name

    @property
    def is_ready(self) -> bool:
        """Tell whether the present child has loaded its models; it has not while being replaced."""
        return self._has_ready_child

    @property
    def is_alive(self) -> bool:
        """Tell whether requests will be answered at some time: neither stopped nor given up."""
        return self._thread.is_alive() and not self._stopping.is_set()

    @property
    def pid(self) -> int | None:
        """Process id of the present child."""
        process = self._process
        return process.pid if process else None

    def start(self) -> None:
        """Start the child; returns at once."""
        # At the program's exit multiprocessing would send a child SIGTERM, which it ignores.
        atexit.register(self.stop)
        self._thread.start()

    def wait_ready(self) -> None:
        """Wait until the child has loaded its models.

        Raises:
            ModelError: the child cannot load its models.
            WorkerError: the child keeps dying.
        """
        self.ready.result()

    def submit(self, request: RequestT) -> "Future[AnswerT]":
        """Queue a request.

        Returns:
            A future with the answer, or a `WorkerError`.
        """
        job: _Job[RequestT, AnswerT] = _Job(request, Future())
        job.answer.set_running_or_notify_cancel()  # from here on it cannot be cancelled
        with self._lock:
            if self._stopping.is_set():
                message = f"the {self._name} process is not running."
                job.answer.set_exception(WorkerError(message, code="worker_not_running"))
            else:
                self._jobs.append(job)
                self._wake_sender.send_bytes(b"w")
        return job.answer

    def stop(self) -> None:
        """End the child at once. Requests without an answer fail."""
        atexit.unregister(self.stop)
        with self._lock:
            self._stopping.set()
            self._wake_sender.send_bytes(b"w")
        if partner := self._partner:
            partner.kill()
        if self._thread.is_alive():
            self._thread.join()
        message = f"the {self._name} process was stopped."
        self._fail_all(WorkerError(message, code="worker_stopped"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # The supervisor thread.

    def _run(self) -> None:
        # Children inherit what this thread blocks, from their first instruction on.
        signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_SIGNALS)
        try:
            self._supervise()
        except Exception as error:
            logger.exception("the supervisor of the %s failed", self._name)
            message = f"the {self._name} process cannot be kept running: {error}"
            self._give_up(WorkerError(message, code="supervisor_failed"))

    def _supervise(self) -> None:
        deaths = 0  # in a row: of children that had answered nothing
        while not self._stopping.is_set():
            connection, process = self._spawn()
            try:
                self._await_ready(connection, process)
                self._has_ready_child = True
                self._serve(connection, process)
            except _ChildDied as death:
                was_ready, self._has_ready_child = self._has_ready_child, False
                process.kill()  # it may also hang, or be busy with a request that was given up
                self._report_death(process, str(death))
                deaths = 1 if self._has_answered else deaths + 1
                if self._falls_back(was_ready, deaths, str(death)):
                    deaths = 0
                else:
                    self._blame()
            except ModelError as error:
                self._give_up(error)
                return
            finally:
                self._has_ready_child = False
                connection.close()
                _end(process)
            if deaths == FAILED_STARTS and not self.ready.done():
                message = f"the {self._name} process died {deaths} times in a row while starting."
                self._give_up(WorkerError(message, code="worker_never_ready"))
                return
            if not self._stopping.is_set():
                self.restarts += 1
                self._stopping.wait(restart_pause(deaths))

    def _spawn(self) -> tuple[Connection, ChildProcess]:
        fallback = self._fallback
        config = fallback.config if fallback and fallback.is_taken else self._config
        log_level = logging.getLogger().getEffectiveLevel()
        connection, self._process = start(run_child, self._name, self._build, config, log_level)
        self._has_answered = False
        return connection, self._process

    def _await_ready(self, connection: Connection, process: ChildProcess) -> None:
        match self._receive(connection, process, self._timeouts.start):
            case Ready(pid, warnings):
                logger.info("%s is ready, process %d", process_title(self._name), pid)
                for warning in warnings:
                    self._warn(warning)
                if not self.ready.done():
                    self.ready.set_result(None)
            case Broken(message, code):
                raise ModelError(message, code=code)
            case other:
                raise _ChildDied(f"its first message was {type(other).__name__} instead of Ready")

    def _serve(self, connection: Connection, process: ChildProcess) -> None:
        while not self._stopping.is_set():
            if not self._jobs:
                ready = multiprocessing.connection.wait([self._wake_receiver, process.sentinel])
                if process.sentinel in ready:
                    raise _ChildDied(_describe_exit(process))
                self._wake_receiver.recv_bytes()
                continue
            job = self._serving = self._jobs[0]
            with self._limited(process):
                connection.send(job.request)
            answer = self._receive(connection, process, self._timeouts.answer)
            self._has_answered = True
            self._jobs.popleft()
            self._serving = None
            if isinstance(answer, Refused):
                job.answer.set_exception(WorkerError(answer.message, code=answer.code))
            else:
                job.answer.set_result(answer)

    def _receive(
        self,
        connection: Connection,
        process: ChildProcess,
        timeout_s: float,
    ) -> Any:
        deadline = time.monotonic() + timeout_s
        while not self._stopping.is_set():
            remaining = deadline - time.monotonic()
            ready = multiprocessing.connection.wait(
                [connection, process.sentinel, self._wake_receiver], max(0.0, remaining)
            )
            if not ready:
                raise _ChildDied(f"it did not answer within {timeout_s:g} s")
            if connection in ready:
                with self._limited(process):
                    return connection.recv()
            if process.sentinel in ready:
                raise _ChildDied(_describe_exit(process))
            self._wake_receiver.recv_bytes()
        raise _ChildDied("it is being stopped")

    @contextlib.contextmanager
    def _limited(self, process: ChildProcess) -> Iterator[None]:
        """Kill a child that stops in the middle of a message, which would block this thread.

        Messages are larger than what a pipe holds, so that sending waits for the receiver.
        """
        overdue = threading.Timer(self._timeouts.answer, process.kill)
        overdue.daemon = True
        overdue.start()
        self._partner = process
        if self._stopping.is_set():  # `stop` may have looked for it just before
            process.kill()
        try:
            yield
        except (EOFError, OSError) as error:
            is_overdue = overdue.finished.is_set()
            why = "it stopped in the middle of a message" if is_overdue else _describe_exit(process)
            raise _ChildDied(why) from error
        finally:
            self._partner = None
            overdue.cancel()

    def _report_death(self, process: ChildProcess, why: str) -> None:
        if not self._stopping.is_set():
            title = process_title(self._name)
            logger.warning("%s: process %s died: %s", title, process.pid, why)
            sentence = f"the {self._name} process died ({why}) and is being started again."
            self._report("worker_died", sentence)

    def _falls_back(self, was_ready: bool, deaths: int, why: str) -> bool:
        """Switch to the CPU if that may help; the death then does not count against a request."""
        fallback, job = self._fallback, self._serving
        over_request = job.deaths + 1 if job else 0
        if fallback is None or fallback.is_taken or self._stopping.is_set():
            return False
        if not is_hopeless(Death(was_ready, deaths, over_request)):
            return False
        fallback.is_taken = True
        self._serving = None
        if job:
            job.deaths = 0
        self._warn(fallback.warning(why))
        return True

    def _blame(self) -> None:
        """Count the death against the request that was being served, if any."""
        job, self._serving = self._serving, None
        if job is None or self._stopping.is_set():
            return
        job.deaths += 1
        if job.deaths < DEATHS_PER_REQUEST:
            return
        self._jobs.popleft()
        message = f"the {self._name} process died {job.deaths} times over the same request."
        job.answer.set_exception(WorkerError(message, code="worker_killed_by_request"))

    def _give_up(self, error: StreamASRError) -> None:
        with self._lock:
            self.failure = error
            self._stopping.set()
        self._fail_all(error)
        self._report("worker_lost", f"the {self._name} process has ended for good: {error}")

    def _warn(self, sentence: str) -> None:
        logger.warning("%s: %s", process_title(self._name), sentence)
        self._report("degraded", f"{self._name}: {sentence}")

    def _report(self, trouble: Trouble, sentence: str) -> None:
        try:
            self._on_trouble(trouble, sentence)
        except Exception:
            logger.exception("could not report: %s", sentence)

    def _fail_all(self, error: StreamASRError) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            if not job.answer.done():
                job.answer.set_exception(error)
        if not self.ready.done():
            self.ready.set_exception(error)


def restart_pause(deaths: int) -> float:
    """Return the seconds to wait after so many deaths in a row; none after the first."""
    if deaths <= 1:
        return 0.0
    # The exponent is bounded too, since 2 ** 1100 does not fit into a float.
    return min(_LONGEST_PAUSE_S, math.ldexp(_SHORTEST_PAUSE_S, min(deaths - 2, 10)))


class _ChildDied(Exception):  # noqa: N818 - never leaves this module
    """The present child is gone, or counts as dead."""


def _describe_exit(process: ChildProcess) -> str:
    process.join(_STOP_TIMEOUT_S)
    code = process.exitcode
    if code is None:
        return "it closed its pipe"
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _end(process: ChildProcess) -> None:
    """Make sure that a child whose pipe is closed is gone."""
    process.join(_STOP_TIMEOUT_S)
    if process.is_alive():
        process.kill()
    process.join()
    process.close()
