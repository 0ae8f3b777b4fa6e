"""A child process that is there only while it is needed.

```
asleep  -- wake, submit ------------------------> awake    a `Worker` makes a new child
awake   -- `idle_s` without a request or wake --> asleep   the child ends, its memory is free
awake   -- it keeps dying while it starts ------> resting  requests fail at once
resting -- `idle_s` ----------------------------> asleep   the next request tries again
awake   -- its model is broken -----------------> lost     requests fail at once, for good
```

While it loads or owes an answer the child stays, and whether it may go is decided under the same
lock under which requests come in: none is lost or refused because its child was being ended.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, Self, TypeVar

from streamasr.core.errors import ModelError, StreamASRError, WorkerError
from streamasr.engine.worker import Worker

logger = logging.getLogger(__name__)

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")


class OnDemand(Generic[RequestT, AnswerT]):
    """Stands before one worker after the other, all of the same kind."""

    def __init__(
        self, hire: Callable[[], Worker[Any, RequestT, AnswerT]], idle_s: float | None
    ) -> None:
        """Prepare; `start` begins to watch over what is idle.

        Args:
            hire: makes a worker, not started yet.
            idle_s: seconds without work after which its child is ended. None keeps it for good, and
                has `start` make it.
        """
        self._hire = hire
        self._idle_s = idle_s
        self._changed = threading.Condition()  # guards everything below
        self._worker: Worker[Any, RequestT, AnswerT] | None = None
        self._n_owed = 0
        self._last_use = 0.0  # on the monotonic clock
        self._past_restarts = 0
        self._is_stopping = False
        self._thread = threading.Thread(target=self._dismiss_idle, name="on demand", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Whether a child is there that has loaded its models."""
        worker = self._worker
        return worker is not None and worker.is_ready

    @property
    def is_alive(self) -> bool:
        """Whether requests will be answered, sooner or later."""
        with self._changed:
            return not self._is_stopping and (self._worker is None or self._worker.is_alive)

    @property
    def pid(self) -> int | None:
        """The process id of the present child."""
        worker = self._worker
        return worker.pid if worker else None

    @property
    def restarts(self) -> int:
        """How often a child that had died was replaced; one that is ended when idle has not."""
        with self._changed:
            return self._past_restarts + (self._worker.restarts if self._worker else 0)

    def start(self) -> None:
        """Make the child if it is there for good; returns at once."""
        self._thread.start()
        if self._idle_s is None:
            self.wake()

    def wait_ready(self) -> None:
        """Wait until the child that is there now, if any, has loaded its models.

        Raises:
            ModelError: it cannot, and says why.
            WorkerError: it keeps dying.
        """
        if worker := self._worker:
            worker.wait_ready()

    def wake(self) -> None:
        """Have the child load its models, since a request will come soon; returns at once."""
        with self._changed, contextlib.suppress(WorkerError):  # the request will hear of it
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
        """End the child, whatever it is doing. Requests without an answer fail."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        if worker := self._take():  # nobody has started the thread
            worker.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _awake(self) -> Worker[Any, RequestT, AnswerT]:
        """The present worker, or a new one; under the lock.

        Raises:
            WorkerError: none is wanted any more, or none can be made.
        """
        if self._is_stopping:
            raise WorkerError("no process is started any more.")
        if self._worker is None:
            try:
                worker = self._hire()
                worker.start()
            except (OSError, RuntimeError) as error:  # no more files, no more threads
                raise WorkerError(f"no process can be started: {error}") from error
            self._worker = worker
            self._expect(worker.ready)  # a child is not idle while it loads
            self._changed.notify()
        if self._worker.is_alive:  # else it rests, however often it is asked for
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

    # What follows runs in the thread.

    def _dismiss_idle(self) -> None:
        while worker := self._wait_idle():
            worker.stop()

    def _wait_idle(self) -> Worker[Any, RequestT, AnswerT] | None:
        """The next worker that is not needed any longer; None once everything is over."""
        with self._changed:
            while (seconds := self._seconds_to_idle()) > 0:
                self._changed.wait(min(seconds, threading.TIMEOUT_MAX))
            worker = self._take()
            if worker and not self._is_stopping:
                logger.info(
                    "%s had nothing to do for %g s, its process ends", worker.name, self._idle_s
                )
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
