"""What the children of the process tests do: module-level functions, as `spawn` needs them."""

import inspect
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

from streamasr.core.errors import ModelError, StreamASRError
from streamasr.engine.child import Built
from streamasr.engine.worker import Worker
from streamasr.engine.worker_config import AlignerConfig, EncoderConfig
from streamasr.models.family import LoadAligner, LoadEncoder

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
    raise ModelError(reason, code="model_file_missing")


def build_dying(_: None) -> Answer:
    die()


def build_unless_negative(base: int) -> Answer:
    """Dies of a number below 0 and hangs with 0, as with a driver that is no good."""
    if base < 0:
        die()
    if base == 0:
        hang()
    return build_calculator(base)


def build_mortal(is_mortal: bool) -> Answer:
    """Dies of requests above 1, if it dies at all."""
    calculate = build_calculator(0)

    def answer(request: Request) -> Any:
        if is_mortal and isinstance(request, int) and request > 1:
            die()
        return calculate(request)

    return answer


def build_encoder_on_cpu(load: LoadEncoder, config: EncoderConfig) -> Built[Any, Any]:
    """Load the encoder of a machine whose GPU driver kills every process that uses it."""
    from streamasr.engine.encoder import build_encoder

    if config.providers != ("CPUExecutionProvider",):
        die()
    return build_encoder(load, config)


def build_aligner_on_cpu(
    load: LoadAligner, warning: str | None, config: AlignerConfig
) -> Built[Any, Any]:
    """Load the aligner of that machine."""
    from streamasr.engine.aligner import build_aligner

    if config.providers != ("CPUExecutionProvider",) or config.gpu_layers:
        die()
    return build_aligner(load, warning, config)


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
        raise ModelError("the file has gone", code="file_gone")
    marker.touch()
    return build_calculator(0)


N_DEATHS: Final = 5


def build_dying_often(directory: Path) -> Answer:
    """Good the first time, then dies so many times, then good again."""
    n_starts = len(list(directory.glob("start *")))
    (directory / f"start {n_starts}").touch()
    if 1 <= n_starts <= N_DEATHS:
        die()
    return build_calculator(0)


def build_after_reading(fifo: Path) -> Answer:
    fifo.read_text()
    return build_calculator(0)


def build_polite(_: None) -> Answer:
    """Gives way as the aligner does, with a thread before and one behind it."""
    from streamasr.engine.aligner import give_way

    threading.Thread(target=hang, daemon=True).start()
    give_way()
    threading.Thread(target=hang, daemon=True).start()
    return build_calculator(0)


def priorities() -> set[tuple[int, int]]:
    """Niceness and scheduling policy of all threads of this process."""
    threads = [int(path.name) for path in Path("/proc/self/task").iterdir()]
    return {(os.getpriority(os.PRIO_PROCESS, n), os.sched_getscheduler(n)) for n in threads}


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
    raise StreamASRError("not with me", code="not_with_me")


def stop_in_the_middle_once(marker: Path) -> str:
    """Begin to answer and come to a halt, but only the first time."""
    if not marker.exists():
        marker.touch()
        frame = inspect.currentframe()
        while frame and "connection" not in frame.f_locals:
            frame = frame.f_back
        assert frame
        length = struct.pack("!i", 1000)
        os.write(frame.f_locals["connection"].fileno(), length + b"less than that")
        os.kill(os.getpid(), signal.SIGSTOP)
    return "whole"


def hang() -> NoReturn:
    threading.Event().wait()
    raise AssertionError


def tell_and_hang(fifo: Path) -> NoReturn:
    fifo.write_text("started")
    hang()


def spin() -> NoReturn:
    while True:
        pass


def blocked_signals() -> set[signal.Signals]:
    return {signal.Signals(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, set())}


def run_parent(occupation: str) -> None:
    """Start three children, tell their ids, keep two of them busy and wait for what comes."""
    workers = [Worker(f"child {n}", build_calculator, 1) for n in range(3)]
    for worker in workers:
        worker.start()
    pids = [worker.submit(os.getpid).result() for worker in workers]
    workers[0].submit(hang)
    workers[1].submit(spin)
    print(*pids, flush=True)
    if occupation == "wait":
        sys.stdin.read()


def titles() -> tuple[str, str]:
    """Command line and name of this process, as `ps` and `top` show them."""
    own = Path("/proc/self")
    return (own / "cmdline").read_text().rstrip("\0 "), (own / "comm").read_text().strip()
