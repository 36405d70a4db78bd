"""Intervals and tests that the audit uses. Everything here is two-sided at 95 % unless it says otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import chdtrc, ndtr, ndtri

from tunewright.core.intervals import wilson

Z = float(ndtri(0.975))
Floats = np.ndarray[Any, np.dtype[np.float64]]


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def share(hits: float, n: int) -> Estimate:
    """hits/n with Wilson's score interval (1927); the whole range without rows."""
    if not n:
        return Estimate(0.0, 0.0, 1.0)
    return Estimate(hits / n, *wilson(hits, n, 0.95))


def share_difference(hits: tuple[int, int], sizes: tuple[int, int]) -> tuple[Estimate, float]:
    """First share minus second with Newcombe's interval (1998, method 10), and the p value of the z test
    with pooled variance and Yates's correction."""
    (a, b), (n, m) = hits, sizes
    one, two = share(a, n), share(b, m)
    gap = one.value - two.value
    low = gap - math.hypot(one.value - one.low, two.high - two.value)
    high = gap + math.hypot(one.high - one.value, two.value - two.low)
    pooled = (a + b) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    z = max(0.0, abs(gap) - (1 / n + 1 / m) / 2) / error if error else 0.0
    return Estimate(gap, low, high), float(2 * ndtr(-z))


def auc(above: Sequence[float] | Floats, below: Sequence[float] | Floats) -> Estimate:
    """Probability that a draw of ``above`` exceeds one of ``below`` (ties count half), interval of DeLong et
    al. (1988). Where the two do not overlap, its variance is zero although n is finite: then Wilson's."""
    x, y = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    wins_x, wins_y = _beaten(x, y), 1 - _beaten(y, x)
    value = float(wins_x.mean())
    variance = wins_x.var(ddof=1) / len(x) + wins_y.var(ddof=1) / len(y)
    if variance <= 0 and value in (0.0, 1.0):
        n = min(len(x), len(y))
        return share(value * n, n)
    half = Z * math.sqrt(variance)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half))


def _beaten(x: Floats, y: Floats) -> Floats:
    """For each of ``x`` the share of ``y`` below it, ties counted half."""
    ordered = np.sort(y)
    left, right = np.searchsorted(ordered, x, "left"), np.searchsorted(ordered, x, "right")
    result: Floats = (left + right) / (2.0 * len(y))
    return result


def p_of_auc(found: Estimate) -> float:
    """p value of "0.5 is the truth" from the width of the interval."""
    error = (found.high - found.low) / (2 * Z)
    return float(2 * ndtr(-abs(found.value - 0.5) / error)) if error else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979): each can be compared with 0.05."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def chi_square(one: Sequence[int], two: Sequence[int]) -> float:
    """p value of "both counts have the same shares" (Pearson); categories expected less than once in either
    are put together, because below that the approximation fails."""
    table = np.array([one, two], dtype=np.float64)
    table = table[:, table.sum(0) > 0]
    totals = table.sum(1, keepdims=True)
    expected = totals * table.sum(0) / table.sum()
    rare = expected.min(0) < 1
    if rare.any():
        table = np.concatenate([table[:, ~rare], table[:, rare].sum(1, keepdims=True)], axis=1)
        expected = totals * table.sum(0) / table.sum()
    if table.shape[1] < 2:
        return 1.0
    statistic = ((table - expected) ** 2 / np.maximum(expected, 1e-12)).sum()
    return float(chdtrc(table.shape[1] - 1, statistic))


def stability_index(one: Sequence[int], two: Sequence[int]) -> float:
    """Population stability index: sum of (p - q) ln(p/q), half a row added to each count so that an empty
    category stays finite. By custom below 0.1 is stable and above 0.25 a clear shift."""
    p, q = np.asarray(one, dtype=np.float64) + 0.5, np.asarray(two, dtype=np.float64) + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((p - q) * np.log(p / q)).sum())
