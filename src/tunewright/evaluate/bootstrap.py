"""Confidence intervals by resampling rows, or whole groups of rows that belong together.

Every metric is a function of sums over rows, so a resample is a vector of counts and all R resamples of a
metric are one matrix product. Two systems scored on the same rows share the draws.

Shapes: n rows, u units (rows or groups), k statistics, R resamples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.special import ndtr, ndtri, stdtrit

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.intervals import wilson
from tunewright.evaluate.metrics import Array, Metric, Stats, dense

Clusters = Sequence[Hashable | None]
CHUNK = 4_000_000  # counts held at once: 32 MB


@dataclass(frozen=True)
class Estimate:
    """A value with the interval that covers the true value in ``level`` of all test sets like this one.

    ``n`` counts rows, ``units`` what was resampled (rows, or groups). ``method`` is ``bootstrap`` or
    ``wilson``.
    """

    value: float
    low: float
    high: float
    n: int
    level: float
    units: int
    method: str = "bootstrap"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


class Units(NamedTuple):
    """What is resampled: additive statistics (u, k), and the number of rows in each unit (u,)."""

    stats: Stats
    sizes: Array


def interval(
    metric: Metric,
    rows: Array,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    clusters: Clusters | None = None,
) -> Estimate:
    """Bootstrap interval of ``metric`` over ``rows``, as made by ``metric.rows``.

    BCa bootstrap (Efron 1987), because plain percentiles are off where a resample is biased: macro-F1 over
    many classes. Its tails are widened for small n, so that it behaves like a t interval (Hesterberg 2015,
    "What teachers should know about the bootstrap"). ``clusters`` names the group of each row (``None`` = the
    row stands alone); then whole groups are drawn, because rows of one group are not independent evidence.

    Where every resample gives the best or the worst possible value (all rows right, say), the bootstrap
    interval has no width, although n rows prove no such certainty. Then it is the Wilson (1927) interval of
    the share of perfect (worst) rows, stretched to the metric's bounds: exact in intent for shares, a
    stand-in for BLEU, chrF and macro-F1.

    Raises ``DataError`` for fewer than 2 rows or groups and ``ConfigError`` for a setting out of range.
    """
    check_settings(level, resamples)
    units = pool(metric, rows, clusters)
    value = metric.aggregate(rows)
    values = resampled(metric, [units], resamples, seed)[0]
    found = bca(values, value, leave_one_out(metric, units), level)
    method = "bootstrap"
    if metric.bounds and math.isclose(*found, abs_tol=1e-9) and _is_extreme(value, metric.bounds):
        found, method = _at_extreme(value, metric.bounds, len(units.sizes), level), "wilson"
    low, high = min(found[0], value), max(found[1], value)  # rounding may put them on the wrong side
    return Estimate(value, low, high, len(rows), level, len(units.sizes), method)


def _is_extreme(value: float, bounds: tuple[float, float]) -> bool:
    return any(math.isclose(value, bound, abs_tol=1e-9) for bound in bounds)


def _at_extreme(value: float, bounds: tuple[float, float], units: int, level: float) -> tuple[float, float]:
    """Wilson's interval for all or none of the units, stretched to ``bounds``."""
    lowest, width = bounds[0], bounds[1] - bounds[0]
    low, high = wilson(units * (value > lowest + width / 2), units, level)
    return lowest + low * width, lowest + high * width


def check_settings(level: float, resamples: int) -> None:
    """Raises ``ConfigError`` unless the level is a share and there are enough resamples for its tails."""
    if not 0 < level < 1:
        raise ConfigError(f"confidence level {level} is out of range; give a share such as 0.95")
    least = int(np.ceil(2 / (1 - level)))
    if resamples < least:
        raise ConfigError(
            f"{resamples} resamples are too few for a {level:.0%} interval; give {least} or more"
        )


def pool(metric: Metric, rows: Array, clusters: Clusters | None) -> Units:
    """The units to resample; raises ``DataError`` if there are fewer than two or a row has no group entry."""
    if len(rows) < 2:
        raise DataError(
            f"{metric.name}: {len(rows)} test rows cannot show how much a value varies; give 2 or more"
        )
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))[0])
        raise DataError(f"{metric.name}: row {bad + 1} of {len(rows)} is not a finite number: {rows[bad]}")
    stats = metric.spread(rows)
    if clusters is None:
        return Units(stats, np.ones(len(rows)))
    if len(clusters) != len(rows):
        raise DataError(f"{metric.name}: {len(clusters)} group names for {len(rows)} rows; give one per row")
    names = [(i,) if name is None else name for i, name in enumerate(clusters)]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    if len(number) < 2:
        raise DataError(
            f"{metric.name}: all {len(rows)} rows are in the group {names[0]!r}; give 2 groups or more"
        )
    which = [number[name] for name in names]
    member = csr_array((np.ones(len(rows)), (which, np.arange(len(rows)))), shape=(len(number), len(rows)))
    return Units(member @ stats, member.sum(axis=1))


def pair(metric: Metric, rows_a: Array, rows_b: Array, clusters: Clusters | None) -> tuple[Units, Units]:
    """Both systems' units; raises ``DataError`` unless the rows can have come from the same references."""
    if rows_a.shape != rows_b.shape:
        raise DataError(
            f"{metric.name}: cannot pair {len(rows_a)} rows with {len(rows_b)} (shapes {rows_a.shape} and "
            f"{rows_b.shape}); score both systems on the same test rows, in the same order"
        )
    a, b = pool(metric, rows_a, clusters), pool(metric, rows_b, clusters)
    if a.stats.shape != b.stats.shape:
        raise DataError(f"{metric.name}: the two systems were scored against different references")
    return a, b


def total(units: Units) -> Array:
    """Sums of the statistics over all units, (1, k)."""
    return dense(np.ones((1, len(units.sizes))) @ units.stats)


def draws(units: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each unit is in each resample, (r, u) at a time, ``resamples`` in all."""
    rng = np.random.default_rng(seed)
    for size in chunks(units, resamples):
        picked = rng.integers(0, units, (size, units)) + np.arange(size)[:, None] * units
        yield np.bincount(picked.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)


def chunks(units: int, resamples: int) -> list[int]:
    """Sizes that sum to ``resamples`` and keep a chunk of (size, units) numbers in memory bounds."""
    step = max(1, CHUNK // units)
    return [min(step, resamples - done) for done in range(0, resamples, step)]


def resampled(metric: Metric, systems: Sequence[Units], resamples: int, seed: int) -> Array:
    """Value of each system in each resample, the same draws for all: (systems, R)."""
    parts = []
    for counts in draws(len(systems[0].sizes), resamples, seed):
        parts.append([metric.finish(dense(counts @ s.stats), counts @ s.sizes) for s in systems])
    return np.concatenate(parts, axis=1)


def leave_one_out(metric: Metric, units: Units, step: int = 1024) -> Array:
    """The metric without each unit in turn, (u,)."""
    sums, rows = total(units), units.sizes.sum()
    parts = []
    for i in range(0, len(units.sizes), step):
        left = sums - dense(units.stats[i : i + step])
        parts.append(metric.finish(left, rows - units.sizes[i : i + step]))
    return np.concatenate(parts)


def bca(values: Array, value: float, without: Array, level: float) -> tuple[float, float]:
    """BCa interval from the resampled values (R,), the value itself, and the leave-one-out values (u,).

    The two percentiles are moved for bias (how many resamples lie below the value) and for skewness (of the
    leave-one-out values), and widened for few units by Hesterberg's factor.
    """
    units = len(without)
    z = float(np.sqrt(units / (units - 1)) * stdtrit(units - 1, (1 - level) / 2))
    below = ((values < value).mean() + (values <= value).mean()) / 2
    edge = 1 / (len(values) + 1)
    bias = float(ndtri(np.clip(below, edge, 1 - edge)))
    pull = without.mean() - without
    size = float((pull**2).sum()) ** 1.5
    skew = float((pull**3).sum()) / (6 * size) if size else 0.0
    wanted = bias + np.array([z, -z])
    tails = ndtr(bias + wanted / np.maximum(1 - skew * wanted, 1e-9))
    low, high = np.quantile(values, tails)
    return float(low), float(high)
