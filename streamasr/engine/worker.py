"""A child process that answers requests, and is replaced when it dies.

The parent keeps every request until its answer has come. When the child dies (a crash in a native
library, the kernel's out-of-memory killer, a person), a new one is started and the requests are
sent again, so that a death costs time and never an answer. A request that has killed its child
several times is given up with a `WorkerError`; the next one goes on. Where a child may be dying of
what it was asked to run on, the next one is built otherwise first (`CpuFallback`).

A child that never gets ready ends the worker: something is wrong with the machine, and the program
can say so before it has promised anything. Once it was ready, a worker keeps trying, with longer
pauses; only a model that is gone for good ends it.

Children are started with `spawn`: they inherit no locks, threads or file descriptors. A child ends
with its parent, whatever ends that, and leaves all signals that people send to its parent.
"""

import atexit
import collections
import contextlib
import logging
import math
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final, Generic, Literal, Self, TypeAlias, TypeVar

from streamasr.core.errors import ModelError, StreamASRError, WorkerError
from streamasr.core.log import log_to_stderr
from streamasr.engine.cpu_fallback import (
    DEATHS_PER_REQUEST,
    FAILED_STARTS,
    CpuFallback,
    Death,
    is_hopeless,
)

logger = logging.getLogger(__name__)

ConfigT = TypeVar("ConfigT")
RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")

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
"""Ctrl-C, a closing terminal and a service manager signal the whole group of processes, but it is
the parent who decides what comes of it."""

Trouble: TypeAlias = Literal["worker_died", "worker_lost", "degraded"]
"""What became of a child: it is being replaced; there will be no other; it works, but not as it was
asked to."""

OnTrouble: TypeAlias = Callable[[Trouble, str], None]
"""Hears of it, with a sentence for people. Called on the worker's thread; must not block."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a silent child is believed to be working, in seconds."""

    start: float = 300.0
    """Until it is ready: a large model from a cold disk."""
    answer: float = 60.0
    """Until it answers: several times what a segment may honestly take."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The child's first message: its models are loaded."""

    pid: int
    warnings: tuple[str, ...] = ()
    """Sentences: in what it is not as it was asked to be."""


@dataclass(frozen=True, slots=True)
class Built(Generic[RequestT, AnswerT]):
    """What a child answers requests with, and what its parent must be told of it."""

    answer: Callable[[RequestT], AnswerT]
    warnings: tuple[str, ...] = ()


Build: TypeAlias = Callable[[ConfigT], Callable[[RequestT], AnswerT] | Built[RequestT, AnswerT]]


@dataclass(frozen=True, slots=True)
class Broken:
    """The child's first message when it can never be ready, as with a missing file."""

    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer to a request that the child understood and cannot fulfil."""

    message: str


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
        retreat: CpuFallback[ConfigT] | None = None,
    ) -> None:
        """Prepare a worker; `start` makes the process.

        Args:
            name: for the log and the process list.
            build: runs in the child: loads what is needed, returns what answers requests. A
                module-level function, so that it can be named to the child. The heavy imports
                belong inside it.
            config: crosses into the child whole.
            timeouts: a child that is silent for longer is treated as dead.
            on_trouble: hears of deaths, and of what its child warns of when it is ready.
            retreat: what the child is built with instead, should it die of `config`.
        """
        self._name = name
        self._build = build
        self._config = config
        self._timeouts = timeouts
        self._on_trouble = on_trouble
        self._retreat = retreat
        self._jobs: collections.deque[_Job[RequestT, AnswerT]] = collections.deque()
        self._wake_receiver, self._wake_sender = multiprocessing.Pipe(duplex=False)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._process: multiprocessing.process.BaseProcess | None = None
        self._serving: _Job[RequestT, AnswerT] | None = None  # sent to the present child
        self._thread = threading.Thread(target=self._run, name=f"{name} supervisor", daemon=True)
        # The child with which a message is being exchanged at this moment.
        self._partner: multiprocessing.process.BaseProcess | None = None
        self._has_ready_child = False
        self._has_answered = False  # the present child, anything
        self.restarts = 0
        self.ready: Future[None] = Future()
        """Done once its first child has loaded its models, or with what `wait_ready` raises."""
        self.failure: StreamASRError | None = None
        """Why it was given up, if it was."""

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return self._name

    @property
    def is_ready(self) -> bool:
        """Whether the present child has loaded its models. False while it is being replaced."""
        return self._has_ready_child

    @property
    def is_alive(self) -> bool:
        """Whether requests will be answered, sooner or later: neither stopped nor given up."""
        return self._thread.is_alive() and not self._stopping.is_set()

    @property
    def pid(self) -> int | None:
        """The process id of the present child."""
        process = self._process
        return process.pid if process else None

    def start(self) -> None:
        """Start the child; returns at once."""
        # At the program's exit multiprocessing would ask a child to end that does not listen.
        atexit.register(self.stop)
        self._thread.start()

    def wait_ready(self) -> None:
        """Wait until the child has loaded its models.

        Raises:
            ModelError: it cannot, and says why.
            WorkerError: it keeps dying.
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
                job.answer.set_exception(WorkerError(f"the {self._name} is not running."))
            else:
                self._jobs.append(job)
                self._wake_sender.send_bytes(b"w")
        return job.answer

    def stop(self) -> None:
        """End the child, whatever it is doing. Requests without an answer fail."""
        atexit.unregister(self.stop)
        with self._lock:
            self._stopping.set()
            self._wake_sender.send_bytes(b"w")
        if partner := self._partner:
            partner.kill()
        if self._thread.is_alive():
            self._thread.join()
        self._fail_all(WorkerError(f"the {self._name} was stopped."))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What follows runs in the supervisor thread.

    def _run(self) -> None:
        # Children inherit what this thread blocks, from their first instruction on. Python's
        # helper process is started before, since starting it unblocks signals again.
        multiprocessing.resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_SIGNALS)
        try:
            self._supervise()
        except Exception as error:
            logger.exception("the supervisor of the %s failed", self._name)
            self._give_up(WorkerError(f"the {self._name} cannot be kept running: {error}"))

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
                process.kill()  # it may also hang, or be busy with what nobody waits for any more
                self._report_death(process, str(death))
                deaths = 1 if self._has_answered else deaths + 1
                if self._retreats(was_ready, deaths, str(death)):
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
                message = f"the {self._name} died {deaths} times in a row while starting."
                self._give_up(WorkerError(message))
                return
            if not self._stopping.is_set():
                self.restarts += 1
                self._stopping.wait(restart_pause(deaths))

    def _spawn(self) -> tuple[Connection, multiprocessing.process.BaseProcess]:
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        retreat = self._retreat
        config = retreat.config if retreat and retreat.is_taken else self._config
        process = spawn.Process(
            target=_child_main,
            args=(theirs, self._build, config, logging.getLogger().getEffectiveLevel()),
            name=f"streamasr {self._name}",
            daemon=True,
        )
        process.start()
        # Only the child may hold its end, or a death would not close the pipe.
        theirs.close()
        self._process = process
        self._has_answered = False
        return ours, process

    def _await_ready(
        self, connection: Connection, process: multiprocessing.process.BaseProcess
    ) -> None:
        match self._receive(connection, process, self._timeouts.start):
            case Ready(pid, warnings):
                logger.info("%s is ready, process %d", self._name, pid)
                for warning in warnings:
                    self._warn(warning)
                if not self.ready.done():
                    self.ready.set_result(None)
            case Broken(message):
                raise ModelError(message)
            case other:
                raise _ChildDied(f"it began with {type(other).__name__} instead of Ready")

    def _serve(self, connection: Connection, process: multiprocessing.process.BaseProcess) -> None:
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
                job.answer.set_exception(WorkerError(answer.message))
            else:
                job.answer.set_result(answer)

    def _receive(
        self,
        connection: Connection,
        process: multiprocessing.process.BaseProcess,
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
    def _limited(self, process: multiprocessing.process.BaseProcess) -> Iterator[None]:
        """Kill a child that stops in the middle of a message, which would hold us up for ever.

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

    def _report_death(self, process: multiprocessing.process.BaseProcess, why: str) -> None:
        if not self._stopping.is_set():
            logger.warning("%s (process %s) died: %s", self._name, process.pid, why)
            self._tell("worker_died", f"the {self._name} died ({why}) and is being started again.")

    def _retreats(self, was_ready: bool, deaths: int, why: str) -> bool:
        """Build the next child otherwise if that may help; its requests are blamed for nothing."""
        retreat, job = self._retreat, self._serving
        over_request = job.deaths + 1 if job else 0
        if retreat is None or retreat.is_taken or self._stopping.is_set():
            return False
        if not is_hopeless(Death(was_ready, deaths, over_request)):
            return False
        retreat.is_taken = True
        self._serving = None
        if job:
            job.deaths = 0
        self._warn(retreat.warning(why))
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
        job.answer.set_exception(
            WorkerError(f"the {self._name} died {job.deaths} times over the same request.")
        )

    def _give_up(self, error: StreamASRError) -> None:
        with self._lock:
            self.failure = error
            self._stopping.set()
        self._fail_all(error)
        self._tell("worker_lost", f"the {self._name} is given up: {error}")

    def _warn(self, sentence: str) -> None:
        logger.warning("%s: %s", self._name, sentence)
        self._tell("degraded", f"{self._name}: {sentence}")

    def _tell(self, trouble: Trouble, sentence: str) -> None:
        try:
            self._on_trouble(trouble, sentence)
        except Exception:
            logger.exception("nobody heard that %s", sentence)

    def _fail_all(self, error: StreamASRError) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            if not job.answer.done():
                job.answer.set_exception(error)
        if not self.ready.done():
            self.ready.set_exception(error)


def restart_pause(deaths: int) -> float:
    """Seconds to wait after so many deaths in a row; none after the first."""
    if deaths <= 1:
        return 0.0
    # The exponent is bounded too, since 2 ** 1100 does not fit into a float.
    return min(_LONGEST_PAUSE_S, math.ldexp(_SHORTEST_PAUSE_S, min(deaths - 2, 10)))


class _ChildDied(Exception):  # noqa: N818 - never leaves this module
    """The present child is gone, or must be treated as if it were."""


def _describe_exit(process: multiprocessing.process.BaseProcess) -> str:
    process.join(_STOP_TIMEOUT_S)
    code = process.exitcode
    if code is None:
        return "it closed its pipe"
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _end(process: multiprocessing.process.BaseProcess) -> None:
    """Make sure that a child whose pipe is closed is gone."""
    process.join(_STOP_TIMEOUT_S)
    if process.is_alive():
        process.kill()
    process.join()


def _child_main(
    connection: Connection,
    build: Build[ConfigT, RequestT, AnswerT],
    config: ConfigT,
    log_level: int,
) -> None:
    """The child: say `Ready`, then answer one request after the other until the pipe closes."""
    threading.Thread(target=_end_with_parent, name="watch the parent", daemon=True).start()
    log_to_stderr(log_level)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _answer_requests(connection, build, config)


def _end_with_parent() -> None:
    """Leave as soon as the parent is gone, even if busy with a request."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a child only"
    parent.join()
    os._exit(1)  # nobody is left who could want to know; other threads may be in native code


def _answer_requests(
    connection: Connection,
    build: Build[ConfigT, RequestT, AnswerT],
    config: ConfigT,
) -> None:
    try:
        built = build(config)
    except StreamASRError as error:
        connection.send(Broken(str(error)))
        return
    if not isinstance(built, Built):
        built = Built(built)
    connection.send(Ready(os.getpid(), built.warnings))
    while True:
        request = connection.recv()
        try:
            result: AnswerT | Refused = built.answer(request)
        except StreamASRError as error:
            result = Refused(str(error))
        connection.send(result)
