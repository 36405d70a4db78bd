"""How many test rows settle a question, and how small a difference so many rows can see.

Normal approximation: a difference with standard error sd / sqrt(n) excludes zero with probability ``power``
if it is z(1 - alpha/2) + z(power) standard errors large (Cohen 1988, chapter 2); 2.80 for 95 % and 80 %.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from tunewright.core.errors import ConfigError
from tunewright.evaluate.bootstrap import Clusters, leave_one_out, pair
from tunewright.evaluate.metrics import Array, Metric


def rows_to_decide(
    metric: Metric,
    rows_a: Array,
    rows_b: Array,
    power: float = 0.8,
    level: float = 0.95,
    *,
    clusters: Clusters | None = None,
) -> int | None:
    """Test rows at which the observed difference would exclude zero with this power; ``None`` if it is 0."""
    value, sd = _observed(metric, rows_a, rows_b, clusters)
    return rows_for(value, sd, power=power, level=level) if value else None


def minimum_detectable(
    metric: Metric,
    rows_a: Array,
    rows_b: Array,
    power: float = 0.8,
    level: float = 0.95,
    *,
    n: int | None = None,
    clusters: Clusters | None = None,
) -> float:
    """The smallest difference that ``n`` rows like these (default: as many as given) tell from zero."""
    _, sd = _observed(metric, rows_a, rows_b, clusters)
    return detectable(sd, len(rows_a) if n is None else n, power=power, level=level)


def rows_for(effect: float, sd: float, *, power: float = 0.8, level: float = 0.95) -> int:
    """Rows needed for a difference ``effect`` whose per-row standard deviation is ``sd``.

    Never fewer than the exact test needs to reject at all: with m rows its p is at least 2 / 2**m.
    """
    if effect == 0:
        raise ConfigError(
            "no number of rows can tell a difference of 0 from 0; give the difference you care about"
        )
    least = math.ceil(math.log2(2 / (1 - level)))
    return max(least, math.ceil((_reach(power, level) * sd / effect) ** 2))


def detectable(sd: float, n: int, *, power: float = 0.8, level: float = 0.95) -> float:
    """The smallest difference that ``n`` rows see, if one row's difference has standard deviation ``sd``."""
    if n < 2:
        raise ConfigError(f"{n} rows cannot show a difference; give 2 or more")
    return _reach(power, level) * sd / math.sqrt(n)


def sd_of_shares(effect: float, disagreement: float) -> float:
    """Per-row standard deviation of the difference of two shares, such as two accuracies.

    ``disagreement`` is the share of rows on which exactly one of the two systems is right, so that a row's
    difference is +1, -1 or 0 with variance disagreement - effect**2 (Connor 1987).
    """
    if not abs(effect) <= disagreement <= 1:
        raise ConfigError(
            f"systems that differ by {effect} disagree on {abs(effect)} to 1 of rows, not {disagreement}"
        )
    return math.sqrt(disagreement - effect**2)


def sd_per_row(without: Array, rows: float) -> float:
    """Standard deviation that one row contributes: sqrt(``rows``) times the jackknife standard error.

    ``without`` (u,) are the values with one unit left out (Tukey 1958). For a mean this is the textbook
    standard deviation; for other metrics it agrees with the bootstrap and needs no random numbers.
    """
    units = len(without)
    variance = (units - 1) / units * float(((without - without.mean()) ** 2).sum())
    return math.sqrt(variance * rows)


def _observed(metric: Metric, rows_a: Array, rows_b: Array, clusters: Clusters | None) -> tuple[float, float]:
    """The difference B - A, and its standard deviation per row."""
    a, b = pair(metric, rows_a, rows_b, clusters)
    without = leave_one_out(metric, b) - leave_one_out(metric, a)
    return metric.aggregate(rows_b) - metric.aggregate(rows_a), sd_per_row(without, len(rows_a))


def _reach(power: float, level: float) -> float:
    for name, share in (("power", power), ("level", level)):
        if not 0 < share < 1:
            raise ConfigError(f"{name} {share} is out of range; give a share such as 0.8")
    return float(ndtri(1 - (1 - level) / 2) + ndtri(power))
