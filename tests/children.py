"""What the children of the process tests do: module-level functions, as `spawn` needs them."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from streamasr.errors import ModelError, StreamASRError
from streamasr.workers.process import Worker

Request: TypeAlias = int | Callable[[], Any]
Answer: TypeAlias = Callable[[Request], Any]


class NotPicklable:
    """A request that cannot cross into a child."""

    def __call__(self) -> None:
        """Never reached."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("this cannot be pickled")


def build_calculator(base: int) -> Answer:
    """Answers a number with its sum with `base`, and calls functions."""
    return lambda request: base + request if isinstance(request, int) else request()


def build_broken(reason: str) -> Answer:
    raise ModelError(reason)


def build_dying(_: None) -> Answer:
    die()


def build_dying_once(marker: Path) -> Answer:
    die_once(marker)
    return build_calculator(0)


def build_stuck(fifo: Path) -> Answer:
    """Says through a named pipe that it has begun to load, and never ends."""
    tell_and_hang(fifo)


def build_never_ready(_: None) -> Answer:
    hang()


def build_broken_later(marker: Path) -> Answer:
    """Good the first time, broken from then on."""
    if marker.exists():
        raise ModelError("the file has gone")
    marker.touch()
    return build_calculator(0)


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def die_once(marker: Path) -> str:
    """Kill this process, but only the first time."""
    if not marker.exists():
        marker.touch()
        die()
    return "survived"


def leave() -> NoReturn:
    os._exit(3)


def crash() -> NoReturn:
    os.close(2)  # the traceback is expected
    raise ZeroDivisionError


def refuse() -> NoReturn:
    raise StreamASRError("not with me")


def hang() -> NoReturn:
    threading.Event().wait()
    raise AssertionError


def tell_and_hang(fifo: Path) -> NoReturn:
    fifo.write_text("started")
    hang()


def blocks_ctrl_c() -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def run_parent() -> None:
    """Start two children, tell their ids and wait to be killed."""
    workers = [Worker(f"child {n}", build_calculator, 1) for n in range(2)]
    for worker in workers:
        worker.start()
    pids = [worker.submit(os.getpid).result() for worker in workers]
    print(*pids, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    run_parent()
