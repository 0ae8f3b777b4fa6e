"""Many measured values in a few numbers; pure."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of measured values, linear between neighbours."""

    n: int
    p50: float
    p95: float
    p99: float
    worst: float


def spread(values: Iterable[float]) -> Spread | None:
    """The percentiles of these values; None if there are none."""
    measured = list(values)
    if not measured:
        return None
    p50, p95, p99, worst = (float(at) for at in np.percentile(measured, [50, 95, 99, 100]))
    return Spread(len(measured), p50, p95, p99, worst)


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """By how much y grows for each unit of x: least squares.

    Args:
        points: pairs of x and y.

    Returns:
        None for fewer than two different x.
    """
    if len({x for x, _ in points}) < 2:
        return None
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope


def median(values: Iterable[float]) -> float:
    """The middle value; 0 of none."""
    measured = list(values)
    return statistics.median(measured) if measured else 0.0


def ratio(a: float, b: float) -> float | None:
    """How many times `b` fits into `a`; None where there is no `b`."""
    return a / b if b else None
