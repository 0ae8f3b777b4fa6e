"""Worker on demand: a child process that exists only while it is needed.

```
asleep  -- wake, submit ------------------------> awake    a `Worker` makes a new child
awake   -- `idle_s` without a request or wake --> asleep   the child ends, its memory is free
awake   -- it keeps dying while it starts ------> resting  requests fail at once
resting -- `idle_s` ----------------------------> asleep   the next request tries again
awake   -- its model is broken -----------------> lost     requests fail at once, for good
```

The child stays while it loads or owes an answer. Its end is decided under the lock under which
requests come in, so that none is lost or refused because the child was being ended.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, Self, TypeVar

from streamasr.core.errors import ModelError, StreamASRError, WorkerError
from streamasr.engine.child import process_title
from streamasr.engine.worker import Worker

logger = logging.getLogger(__name__)

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")


class OnDemand(Generic[RequestT, AnswerT]):
    """Interface of one worker after the other, all of the same kind."""

    def __init__(
        self, make: Callable[[], Worker[Any, RequestT, AnswerT]], idle_s: float | None
    ) -> None:
        """Prepare; `start` begins to end idle workers.

        Args:
            make: makes a worker, not started yet.
            idle_s: seconds without work after which its child is ended. None keeps it for good, and
                has `start` make it.
        """
        self._make = make
        self._idle_s = idle_s
        self._changed = threading.Condition()  # guards everything below
        self._worker: Worker[Any, RequestT, AnswerT] | None = None
        self._n_owed = 0
        self._last_use = 0.0  # on the monotonic clock
        self._past_restarts = 0
        self._is_stopping = False
        self._thread = threading.Thread(target=self._end_idle, name="on demand", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Tell whether a child has loaded its models."""
        worker = self._worker
        return worker is not None and worker.is_ready

    @property
    def is_alive(self) -> bool:
        """Tell whether requests will be answered at some time."""
        with self._changed:
            return not self._is_stopping and (self._worker is None or self._worker.is_alive)

    @property
    def pid(self) -> int | None:
        """Process id of the present child."""
        worker = self._worker
        return worker.pid if worker else None

    @property
    def restarts(self) -> int:
        """Number of children that died and were replaced; the end of an idle one does not count."""
        with self._changed:
            return self._past_restarts + (self._worker.restarts if self._worker else 0)

    def start(self) -> None:
        """Make the child if it is kept for good; returns at once."""
        self._thread.start()
        if self._idle_s is None:
            self.wake()

    def wait_ready(self) -> None:
        """Wait until the present child, if any, has loaded its models.

        Raises:
            ModelError: the child cannot load its models.
            WorkerError: the child keeps dying.
        """
        if worker := self._worker:
            worker.wait_ready()

    def wake(self) -> None:
        """Have the child load its models, since a request will come soon; returns at once."""
        with self._changed, contextlib.suppress(WorkerError):  # the request will get the error
            self._awake()

    def submit(self, request: RequestT) -> "Future[AnswerT]":
        """Queue a request.

        Returns:
            A future with the answer, or a `WorkerError`.
        """
        with self._changed:
            try:
                answer = self._awake().submit(request)
            except WorkerError as error:
                return _failed(error)
            self._expect(answer)
        return answer

    def stop(self) -> None:
        """End the child at once. Requests without an answer fail."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        if worker := self._take():  # the thread was never started
            worker.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _awake(self) -> Worker[Any, RequestT, AnswerT]:
        """Return the present worker, or a new one; under the lock.

        Raises:
            WorkerError: this object was stopped, or the system has no more processes.
        """
        if self._is_stopping:
            raise WorkerError("no process is started any more.", code="worker_not_running")
        if self._worker is None:
            try:
                worker = self._make()
                worker.start()
            except (OSError, RuntimeError) as error:  # no more files, no more threads
                message = f"no process can be started: {error}"
                raise WorkerError(message, code="worker_not_startable") from error
            self._worker = worker
            self._expect(worker.ready)  # a child is not idle while it loads
            self._changed.notify()
        if self._worker.is_alive:  # requests do not prolong the rest of a dead one
            self._last_use = time.monotonic()
        return self._worker

    def _expect(self, what: "Future[Any]") -> None:
        """Keep the child until this has come; under the lock."""
        self._n_owed += 1
        what.add_done_callback(self._note)

    def _note(self, _what: "Future[Any]") -> None:
        with self._changed:
            self._n_owed -= 1
            self._last_use = time.monotonic()
            self._changed.notify()

    def _take(self) -> Worker[Any, RequestT, AnswerT] | None:
        with self._changed:
            worker, self._worker = self._worker, None
            if worker:
                self._past_restarts += worker.restarts
            return worker

    # The thread.

    def _end_idle(self) -> None:
        while worker := self._wait_idle():
            worker.stop()

    def _wait_idle(self) -> Worker[Any, RequestT, AnswerT] | None:
        """Wait for a worker that is not needed any longer; None once this object was stopped."""
        with self._changed:
            while (seconds := self._seconds_to_idle()) > 0:
                self._changed.wait(min(seconds, threading.TIMEOUT_MAX))
            worker = self._take()
            if worker and not self._is_stopping:
                title = process_title(worker.name)
                logger.info("%s ends after %g s without work", title, self._idle_s)
            return worker

    def _seconds_to_idle(self) -> float:
        if self._is_stopping:
            return 0
        if self._worker is None or self._n_owed or self._idle_s is None:
            return float("inf")
        if isinstance(self._worker.failure, ModelError):  # the next one would fail the same way
            return float("inf")
        return self._last_use + self._idle_s - time.monotonic()


def _failed(error: StreamASRError) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_exception(error)
    return future
