"""SHIP, DON'T SHIP or CAN'T TELL: what the differences to all baselines say together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from tunewright.core.errors import ConfigError
from tunewright.evaluate.compare import Difference
from tunewright.evaluate.metrics import Metric

Word = Literal["SHIP", "DON'T SHIP", "CAN'T TELL"]


@dataclass(frozen=True)
class Verdict:
    """The decision on ``metric``, and the baseline ``against`` which it was hardest to reach.

    ``rows_that_would_decide`` is set for CAN'T TELL only, and ``None`` there if a difference is exactly 0.
    """

    word: Word
    metric: str
    against: str
    difference: Difference
    reason: str
    rows_that_would_decide: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "word": self.word,
            "metric": self.metric,
            "against": self.against,
            "difference": self.difference.to_dict(),
            "reason": self.reason,
            "rows_that_would_decide": self.rows_that_would_decide,
        }


def verdict(differences: dict[str, Difference], metric: Metric) -> Verdict:
    """Decide from the difference (tuned - baseline) to each baseline, by name.

    SHIP if every interval excludes zero in the good direction; DON'T SHIP if any excludes it in the bad one;
    else CAN'T TELL. ``against`` is the closest call (SHIP), the clearest loss (DON'T SHIP), or the baseline
    that needs most rows (CAN'T TELL). Raises ``ConfigError`` without a baseline.
    """
    if not differences:
        raise ConfigError(
            "a verdict needs a baseline to compare with; add evaluate.baselines, such as zero_shot"
        )
    gains = {name: _gain(difference, metric) for name, difference in differences.items()}
    worst = min(gains, key=lambda name: gains[name][1])
    closest = min(gains, key=lambda name: gains[name][0])
    if gains[worst][1] < 0:
        return _decided("DON'T SHIP", worst, differences, metric)
    if gains[closest][0] > 0:
        return _decided("SHIP", closest, differences, metric)
    open_ones = [name for name, (low, _) in gains.items() if low <= 0]
    return _undecided(open_ones, differences, metric)


def _gain(difference: Difference, metric: Metric) -> tuple[float, float]:
    """The interval turned so that positive is good."""
    if metric.higher_is_better:
        return difference.low, difference.high
    return -difference.high, -difference.low


def _decided(word: Word, against: str, differences: dict[str, Difference], metric: Metric) -> Verdict:
    found = differences[against]
    good = "better" if word == "SHIP" else "worse"
    tail = (
        f", the closest call of {len(differences)} baselines"
        if word == "SHIP" and len(differences) > 1
        else ""
    )
    reason = f"{metric.name} is {good} than {against} by {abs(found.value):.3g} ({_evidence(found)}){tail}."
    return Verdict(word, metric.name, against, found, reason)


def _undecided(names: list[str], differences: dict[str, Difference], metric: Metric) -> Verdict:
    against = max(names, key=lambda name: differences[name].rows_to_decide or math.inf)
    found = differences[against]
    rows = found.rows_to_decide
    if rows is not None:
        advice = f"about {rows:,} test rows would decide"
    elif found.value == 0:
        advice = "no number of rows can be named for a difference of 0"
    else:
        advice = "more test rows are needed"
    reason = (
        f"{metric.name} differs from {against} by {found.value:+.3g} ({_evidence(found)}), "
        f"which does not exclude zero; {advice}."
    )
    return Verdict("CAN'T TELL", metric.name, against, found, reason, rows)


def _evidence(found: Difference) -> str:
    span = f"{found.low:+.3g} to {found.high:+.3g}"
    return f"{found.level:.0%} interval {span}, p = {found.p:.2g}, n = {found.n:,} rows"
