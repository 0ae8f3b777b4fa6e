"""Statistics of measured values; pure."""

import math
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
    """Return percentiles of values; None without values."""
    measured = list(values)
    if not measured:
        return None
    p50, p95, p99, worst = (float(at) for at in np.percentile(measured, [50, 95, 99, 100]))
    return Spread(len(measured), p50, p95, p99, worst)


@dataclass(frozen=True, slots=True)
class Trend:
    """A straight line through points, by least squares."""

    slope: float
    """Growth of y for each unit of x."""
    error: float
    """Standard error of the slope, as if the points were independent."""


def trend(points: Sequence[tuple[float, float]]) -> Trend | None:
    """Return the line through pairs of x and y; None for fewer than three points or two x."""
    if len(points) < 3 or len({x for x, _ in points}) < 2:
        return None
    xs, ys = [x for x, _ in points], [y for _, y in points]
    slope, intercept = statistics.linear_regression(xs, ys)
    residuals = sum((y - intercept - slope * x) ** 2 for x, y in points)
    mean = statistics.fmean(xs)
    width = sum((x - mean) ** 2 for x in xs)
    return Trend(slope, math.sqrt(residuals / (len(points) - 2) / width))


def median(values: Iterable[float]) -> float:
    """Return the median; 0 without values."""
    measured = list(values)
    return statistics.median(measured) if measured else 0.0


def ratio(a: float, b: float) -> float | None:
    """Return a / b; None if b is 0."""
    return a / b if b else None
