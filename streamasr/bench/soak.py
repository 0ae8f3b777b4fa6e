"""Whether a long run stays as it began: memory that does not grow, text that does not fall back."""

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
    """Median over the second quarter of the run; in the first one it settles."""
    last_quarter: float

    @property
    def share(self) -> float | None:
        """By how much of itself it has grown."""
        times = ratio(self.last_quarter, self.second_quarter)
        return None if times is None else times - 1


@dataclass(frozen=True, slots=True)
class SoakResult:
    """What a long run came to."""

    latency: LatencyResult
    growth: Growth
    worst_lag: float
    """Seconds of finished speech whose text was owed, by the daemon's own account."""


def result_of_soak(run: Run, rules: Endpointing) -> SoakResult:
    """The figures of a long run."""
    worst = max((look.lag for look in run.looks), default=0.0)
    return SoakResult(result_of(run, rules), memory_growth(run.looks), worst)


def memory_growth(looks: Sequence[Look]) -> Growth:
    """Memory in the second and in the last quarter of the looks."""
    memory = [sum(used.memory for used in look.usage.values()) for look in looks]
    quarter = max(1, len(memory) // 4)
    return Growth(median(memory[quarter : 2 * quarter] or memory), median(memory[-quarter:]))
