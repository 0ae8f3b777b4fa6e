"""Processor time and memory of processes, as Linux reports them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")  # a second
_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources that a process has used so far."""

    cpu_s: float
    """Processor time of all its threads."""
    memory: int
    """Bytes at present: the proportional set size, in which shared pages count once."""
    peak: int
    """Highest resident size in bytes, mapped files included."""


def usage(process: int) -> Usage | None:
    """Return the resources that a process has used; None once it has ended."""
    directory = _PROC / str(process)
    try:
        fields = (directory / "stat").read_text().rpartition(")")[2].split()
        status = _sizes((directory / "status").read_text())
        rollup = _sizes((directory / "smaps_rollup").read_text())
    except OSError:
        return None
    if "Pss" not in rollup:  # a zombie
        return None
    ticks = int(fields[11]) + int(fields[12])  # utime and stime, counted from the third of proc(5)
    return Usage(ticks / _TICKS, rollup["Pss"], status.get("VmHWM", 0))


def _sizes(text: str) -> dict[str, int]:
    """Return the sizes in lines like `Pss:   123 kB`, in bytes."""
    lines = (line.split() for line in text.splitlines())
    return {
        fields[0].rstrip(":"): int(fields[1]) * 1024
        for fields in lines
        if len(fields) == 3 and fields[2] == "kB"
    }
