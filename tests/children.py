"""What the children of the process tests do: module-level functions, as `spawn` needs them."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from streamasr.errors import ModelError, StreamASRError
from streamasr.workers import process


class NotPicklable:
    """A request that cannot cross into a child."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("this cannot be pickled")


def build_calculator(base: int) -> Callable[[Any], Any]:
    """Answers a number with its sum with `base`, and some words with mischief."""

    def answer(request: Any) -> Any:
        match request:
            case int():
                return base + request
            case "pid":
                return os.getpid()
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "refuse":
                raise StreamASRError("not with me")
            case "crash":
                sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - the traceback is expected
                raise ZeroDivisionError
            case "hang":
                time.sleep(600)
            case "ignore the pipe":
                threading.Event().wait()
            case ["die once", marker]:
                die_once(Path(marker))
                return "survived"
            case ["tell", fd_path]:
                Path(fd_path).write_text("started")  # a named pipe: the test reads it
                threading.Event().wait()
            case ["sigint mask"]:
                return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())
            case ["descriptors", pid]:
                return len(os.listdir(f"/proc/{pid}/fd"))
        return request

    return answer


def die_once(marker: Path) -> None:
    """Kill this process, but only the first time."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def build_broken(reason: str) -> Callable[[Any], Any]:
    raise ModelError(reason)


def build_dying(_: None) -> Callable[[Any], Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def build_dying_once(marker: str) -> Callable[[Any], Any]:
    die_once(Path(marker))
    return build_calculator(0)


def build_stuck(fifo: str) -> Callable[[Any], Any]:
    """Says through a named pipe that it has begun to load, and never ends."""
    Path(fifo).write_text("loading")
    threading.Event().wait()
    raise AssertionError


def build_never_ready(_: None) -> Callable[[Any], Any]:
    threading.Event().wait()
    raise AssertionError


def build_broken_later(marker: str) -> Callable[[Any], Any]:
    """Good the first time, broken from then on."""
    if Path(marker).exists():
        raise ModelError("the file has gone")
    Path(marker).touch()
    return build_calculator(0)


def orphan_parent() -> None:
    """A parent with two children, one busy; tells their ids and waits to be killed."""
    workers: list[process.Worker[int, Any, Any]] = [
        process.Worker(f"child {n}", build_calculator, 1) for n in range(2)
    ]
    for worker in workers:
        worker.start()
    pids = [worker.submit("pid").result() for worker in workers]
    workers[0].submit("hang")
    print(*pids, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    orphan_parent()
