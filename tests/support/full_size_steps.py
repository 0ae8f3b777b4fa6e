"""Measurements at full size: time and memory of steps in processes of their own, and their table.

Each import and each run has a separate process, so that their memory is measured separately. There
are two figures for memory: the peak of all resident pages, which includes pages of mapped files
that the system can drop at any time, and the peak of the process's own pages.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table

_SAMPLE_S: Final = 0.02

Steps = Mapping[str, Callable[..., None]]


@dataclass(frozen=True, slots=True)
class Cost:
    """Time and memory of a step."""

    seconds: float
    resident_mib: int
    """Peak of resident memory."""
    own_mib: int
    """Peak of resident memory without pages of files."""


@dataclass(frozen=True, slots=True)
class Row:
    """Result for one form."""

    model: str
    form: str
    source_mib: int
    importing: Cost
    running: Cost
    cosine: float | None
    """Cosine of the encoder's output with that of transformers; None without torch."""
    n_equal: int | None
    """Number of equal tokens of a recogniser, or time classes of an aligner; None without torch."""
    n_compared: int
    is_good: bool


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Provide a path whose content is removed before and afterwards."""
    shutil.rmtree(path, ignore_errors=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def report(model: str, step: str) -> None:
    """Print the time and a step."""
    print(f"{time.strftime('%H:%M:%S')}  {model}: {step}", file=sys.stderr, flush=True)


def run_step(module: str, name: str, *arguments: Path | str) -> tuple[Cost, dict[str, Any]]:
    """Run a step in a separate process; the last argument may be the file of its results."""
    command = [sys.executable, "-m", module, name, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    cost = Cost(**json.loads(done.stdout.splitlines()[-1]))
    path = Path(arguments[-1])
    if path.suffix != ".npz":
        return cost, {}
    with np.load(path) as found:
        arrays = dict(found)
    path.unlink()
    return cost, arrays


def main(steps: Steps, arguments: Sequence[str] | None = None) -> None:
    """Run one step, and print its cost."""
    parser = argparse.ArgumentParser(description="A step of `tests.support.full_size check`.")
    parser.add_argument("step", choices=steps)
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args(arguments)
    with _measured() as cost:
        steps[options.step](*options.arguments)
    print(json.dumps(asdict(cost())))


@contextmanager
def _measured() -> Iterator[Callable[[], Cost]]:
    """Measure the time and the memory of this process from here on."""
    began, own, is_over = time.monotonic(), [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(_SAMPLE_S):
            own[0] = max(own[0], _kib("RssAnon"))

    def cost() -> Cost:
        # Not getrusage's peak, which includes that of the parent process.
        seconds = round(time.monotonic() - began, 1)
        own[0] = max(own[0], _kib("RssAnon"))  # of a step shorter than a sample
        return Cost(seconds, _kib("VmHWM") >> 10, own[0] >> 10)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield cost
    finally:
        is_over.set()
        watcher.join()


def _kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def n_cores() -> int:
    """Return the number of processor cores that may be used."""
    return len(os.sched_getaffinity(0))


def table_of(rows: Sequence[Row]) -> Table:
    """Return the table of some rows."""
    table = Table("model", "form", title="Every form at full size")
    for heading in ("source", "import", "resident", "own", "run", "own", "cosine", "equal"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.model,
            row.form,
            f"{row.source_mib} MiB",
            f"{row.importing.seconds:.0f} s",
            f"{row.importing.resident_mib} MiB",
            f"{row.importing.own_mib} MiB",
            f"{row.running.seconds:.0f} s",
            f"{row.running.own_mib} MiB",
            "-" if row.cosine is None else f"{row.cosine:.5f}",
            "-" if row.n_equal is None else f"{row.n_equal} of {row.n_compared}",
            style="" if row.is_good else "bold red",
        )
    return table
