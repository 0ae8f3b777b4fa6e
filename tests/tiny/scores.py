"""Scores of recognised texts: differences in words, and an interval of their rate."""

from __future__ import annotations

import numpy as np


def edits(reference: list[str], hypothesis: list[str]) -> tuple[int, list[tuple[str, str]]]:
    """Count and list the insertions, deletions and substitutions between two texts."""
    n, m = len(reference), len(hypothesis)
    cost = np.zeros((n + 1, m + 1), int)
    cost[:, 0], cost[0] = np.arange(n + 1), np.arange(m + 1)
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            swap = cost[i - 1, j - 1] + (reference[i - 1] != hypothesis[j - 1])
            cost[i, j] = min(swap, cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    pairs, i, j = [], n, m
    while i or j:
        same = i and j and reference[i - 1] == hypothesis[j - 1]
        if i and j and cost[i, j] == cost[i - 1, j - 1] + (not same):
            i, j = i - 1, j - 1
            if not same:
                pairs.append((reference[i], hypothesis[j]))
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
            pairs.append((reference[i], ""))
        else:
            j -= 1
            pairs.append(("", hypothesis[j]))
    return int(cost[n, m]), pairs


def interval(errors: list[int], lengths: list[int]) -> tuple[float, float]:
    """Bootstrap a 95 % interval of the error rate over clips."""
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(errors), size=(1000, len(errors)))
    rates = np.array(errors)[chosen].sum(1) / np.maximum(1, np.array(lengths)[chosen].sum(1))
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)
