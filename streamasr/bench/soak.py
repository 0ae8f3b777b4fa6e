"""Figures of a long run: growth of memory, and lag of text."""

from collections.abc import Sequence
from dataclasses import dataclass

from streamasr.bench.delays import Endpointing
from streamasr.bench.figures import median, ratio
from streamasr.bench.latency import LatencyResult, Run, result_of
from streamasr.bench.telemetry import Look


@dataclass(frozen=True, slots=True)
class Growth:
    """Memory of all processes of the daemon, bytes."""

    second_quarter: float
    """Median over the second quarter of the run; the first quarter is a warm-up."""
    last_quarter: float

    @property
    def share(self) -> float | None:
        """Growth relative to the second quarter."""
        times = ratio(self.last_quarter, self.second_quarter)
        return None if times is None else times - 1


@dataclass(frozen=True, slots=True)
class SoakResult:
    """Figures of a long run."""

    latency: LatencyResult
    growth: Growth
    worst_lag: float
    """Greatest lag in seconds that the daemon reported."""


def result_of_soak(run: Run, rules: Endpointing) -> SoakResult:
    """Return the figures of a long run."""
    worst = max((look.lag for look in run.looks), default=0.0)
    return SoakResult(result_of(run, rules), memory_growth(run.looks), worst)


def memory_growth(looks: Sequence[Look]) -> Growth:
    """Return the memory in the second and in the last quarter of a run."""
    memory = [sum(used.memory for used in look.usage.values()) for look in looks]
    quarter = max(1, len(memory) // 4)
    return Growth(median(memory[quarter : 2 * quarter] or memory), median(memory[-quarter:]))
