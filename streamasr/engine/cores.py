"""Processors of this machine, and the number of them that each stage uses."""

import contextlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_THREADS: Final = 8
"""More threads than this make small matrices slower, not faster."""

_CPU_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """Return the number of processors that this process may use, within a container's quota."""
    n_cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return min(n_cores, cores_of_quota(_CPU_QUOTA.read_text("ascii"), n_cores))
    return n_cores


def cores_of_quota(quota: str, n_cores: int) -> int:
    """Return the number of processors that a control group may keep busy.

    Args:
        quota: its `cpu.max`: microseconds of work in each period of microseconds, or `max 100000`.
        n_cores: of the machine.
    """
    allowed, _, period = quota.partition(" ")
    if not allowed.isdecimal() or not period.strip().isdecimal() or int(period) == 0:
        return n_cores
    return max(1, math.ceil(int(allowed) / int(period)))


@dataclass(frozen=True, slots=True)
class Threads:
    """Number of threads of each stage."""

    encoder: int
    decoder: int
    aligner: int


def share_cores(n_cores: int) -> Threads:
    """Return the threads for a machine with so many cores.

    Encoder and decoder each get all cores, since the passes of one session use one after the other.
    The aligner runs beside them with a low priority: on two cores, its second thread cost them
    nothing, and made it a third faster while they were idle (0.6B, int8 and q8_0).
    """
    n_threads = max(1, min(MAX_THREADS, n_cores))
    return Threads(n_threads, n_threads, aligner=min(n_threads, max(2, n_threads // 2)))
