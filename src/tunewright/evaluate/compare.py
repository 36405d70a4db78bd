"""Two systems on the same test rows: how far apart, how sure, and how many rows would settle it.

>>> from tunewright.evaluate.metrics import METRICS
>>> import numpy as np
>>> before, after = np.zeros(40), np.array([1.0] * 30 + [0.0] * 10)
>>> change = paired(METRICS["exact_match"], before, after)
>>> (change.value, change.wins, change.losses, change.ties)
(0.75, 30, 0, 10)
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr

from tunewright.core.intervals import wilson
from tunewright.evaluate.bootstrap import (
    Clusters,
    Units,
    bca,
    check_settings,
    chunks,
    leave_one_out,
    pair,
    resampled,
    total,
)
from tunewright.evaluate.metrics import Array, Metric, dense
from tunewright.evaluate.power import rows_for, sd_per_row


@dataclass(frozen=True)
class Difference:
    """System B minus system A on the same ``n`` rows, in the metric's unit.

    ``p`` is the two-sided p-value of "the systems are alike". ``wins``, ``losses`` and ``ties`` count the
    rows on which B is better, worse and equal, whatever direction is better. ``rows_to_decide`` is the number
    of rows at which this difference would very likely (80 %) exclude zero; ``None`` if the difference is 0.
    """

    value: float
    low: float
    high: float
    p: float
    n: int
    wins: int
    losses: int
    ties: int
    level: float = 0.95
    rows_to_decide: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def paired(
    metric: Metric,
    rows_a: Array,
    rows_b: Array,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    clusters: Clusters | None = None,
) -> Difference:
    """The difference B - A of ``metric``, with its interval and p-value.

    The interval is the paired bootstrap (the same rows drawn for both), as in ``bootstrap.interval``. The
    p-value comes from swapping the two systems' rows at random (for a mean: flipping the signs of the
    differences), (hits + 1) / (resamples + 1); for right-or-wrong metrics without groups it is McNemar's
    exact test.

    Interval and test never disagree to the comfort of the user: where the test cannot rule out "alike" at
    this level, an interval that excludes zero is widened to touch it. This matters where few rows differ:
    4 wins and no loss exclude zero by bootstrap, yet chance does that once in eight times.

    Raises ``DataError`` for different lengths or fewer than 2 rows (groups).
    """
    check_settings(level, resamples)
    a, b = pair(metric, rows_a, rows_b, clusters)
    n, value = len(rows_a), metric.aggregate(rows_b) - metric.aggregate(rows_a)
    wins, losses = _wins_and_losses(metric, rows_a, rows_b)
    if clusters is None and metric.is_binary(rows_a) and metric.is_binary(rows_b):
        p = mcnemar(wins, losses)
    else:
        p = _swap_test(metric, a, b, resamples, seed)
    values = resampled(metric, [a, b], resamples, seed)
    without = leave_one_out(metric, b) - leave_one_out(metric, a)
    low, high = bca(values[1] - values[0], value, without, level)
    if math.isclose(low, high, abs_tol=1e-9):
        low, high = _without_width(metric, value, len(without), level)
    if p > 1 - level:
        low, high = min(low, 0.0), max(high, 0.0)
    needed = rows_for(value, sd_per_row(without, n), level=level) if value else None
    if needed is not None and low <= 0 <= high:
        needed = max(needed, n + 1)  # this many did not decide
    return Difference(value, low, high, p, n, wins, losses, n - wins - losses, level, needed)


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p of McNemar's test (1947): is a row on which two systems differ a fair coin?"""
    return float(min(1.0, 2 * bdtr(min(wins, losses), wins + losses, 0.5)))


def _wins_and_losses(metric: Metric, rows_a: Array, rows_b: Array) -> tuple[int, int]:
    change = metric.per_row(rows_b) - metric.per_row(rows_a)
    up, down = int((change > 0).sum()), int((change < 0).sum())
    return (up, down) if metric.higher_is_better else (down, up)


def _swap_test(metric: Metric, a: Units, b: Units, resamples: int, seed: int) -> float:
    """Two-sided paired permutation p: each unit's results may have come from either system."""
    rng = np.random.default_rng(seed)
    gap, total_a, total_b = b.stats - a.stats, total(a), total(b)
    rows = a.sizes.sum(keepdims=True)

    def difference(moved: Array) -> Array:
        sizes = np.repeat(rows, len(moved))
        return metric.finish(total_b - moved, sizes) - metric.finish(total_a + moved, sizes)

    observed = abs(float(difference(np.zeros_like(total_a))[0]))
    reached = observed * (1 - 1e-9)  # a rounding error must not hide a tie
    hits = 0
    for size in chunks(len(a.sizes), resamples):
        swapped = rng.integers(0, 2, (size, len(a.sizes))).astype(np.float64)
        hits += int((np.abs(difference(dense(swapped @ gap))) >= reached).sum())
    return (hits + 1) / (resamples + 1)


def _without_width(metric: Metric, value: float, units: int, level: float) -> tuple[float, float]:
    """Where every unit shows the same difference, n units still prove no certainty about the next.

    For a metric with bounds: at most a share ``rest`` (Wilson) of all units behaves otherwise, each by no
    more than the whole range, so 0 becomes plus or minus ``rest`` of it and a full win loses twice ``rest``.
    """
    if metric.bounds is None:
        return value, value
    width = metric.bounds[1] - metric.bounds[0]
    rest = wilson(0, units, level)[1]
    return value - rest * (width + value), value + rest * (width - value)
