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
    """The decision on ``metric``, and the baseline ``against`` which it was made, chosen as ``verdict`` says.

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
    else CAN'T TELL. ``against`` is the closest call (SHIP), of the losses the baseline furthest ahead (DON'T
    SHIP), or the baseline that needs most rows (CAN'T TELL); the sentence of the last also names the baseline
    furthest ahead, if that is another. Raises ``ConfigError`` without a baseline.
    """
    if not differences:
        raise ConfigError(
            "a verdict needs a baseline to compare with; add evaluate.baselines, such as zero_shot"
        )
    gains = {name: _gain(difference, metric) for name, difference in differences.items()}
    closest = min(gains, key=lambda name: gains[name][0])
    if lost := {name: differences[name] for name, (_, high) in gains.items() if high < 0}:
        return _decided("DON'T SHIP", _furthest_ahead(lost, metric), differences, metric)
    if gains[closest][0] > 0:
        return _decided("SHIP", closest, differences, metric)
    open_ones = [name for name, (low, _) in gains.items() if low <= 0]
    return _undecided(open_ones, differences, metric)


def _gain(difference: Difference, metric: Metric) -> tuple[float, float]:
    """The interval turned so that positive is good."""
    if metric.higher_is_better:
        return difference.low, difference.high
    return -difference.high, -difference.low


def _furthest_ahead(differences: dict[str, Difference], metric: Metric) -> str:
    """The baseline that the tuned model is furthest behind, or least ahead of."""
    sign = 1 if metric.higher_is_better else -1
    return min(differences, key=lambda name: sign * differences[name].value)


def _decided(word: Word, against: str, differences: dict[str, Difference], metric: Metric) -> Verdict:
    found = differences[against]
    good = "better" if word == "SHIP" else "worse"
    tail = (
        f", the closest call of {len(differences)} baselines"
        if word == "SHIP" and len(differences) > 1
        else ""
    )
    size = f"{_amount(abs(found.value), metric)}{_unit(metric)}"
    reason = f"{metric.name} is {good} than {_called(against)} by {size} ({_evidence(found, metric)}){tail}."
    return Verdict(word, metric.name, against, found, reason)


def _undecided(names: list[str], differences: dict[str, Difference], metric: Metric) -> Verdict:
    against = max(names, key=lambda name: differences[name].rows_to_decide or math.inf)
    found = differences[against]
    change = f"{_amount(found.value, metric, sign=True)}{_unit(metric)}"
    reason = (
        f"{metric.name} differs from {_called(against)} by {change} ({_evidence(found, metric)}), "
        f"which does not exclude zero{_also_behind(against, differences, metric)}."
    )
    return Verdict("CAN'T TELL", metric.name, against, found, reason, found.rows_to_decide)


def _also_behind(against: str, differences: dict[str, Difference], metric: Metric) -> str:
    """The larger open gap to another baseline than ``against``, if the tuned model is behind it."""
    ahead = _furthest_ahead(differences, metric)
    found = differences[ahead]
    behind = found.value < 0 if metric.higher_is_better else found.value > 0
    if ahead == against or not behind:
        return ""
    size = f"{_amount(abs(found.value), metric)}{_unit(metric)}"
    return f"; it is furthest behind {_called(ahead)}, by {size} ({_evidence(found, metric)}), also undecided"


def _evidence(found: Difference, metric: Metric) -> str:
    low, high = (_amount(bound, metric, sign=True) for bound in (found.low, found.high))
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.2g}"
    return f"{found.level:.0%} interval {low} to {high}, {p}, n = {found.n:,} rows"


def _amount(value: float, metric: Metric, *, sign: bool = False) -> str:
    """A share in percentage points with one decimal, anything else with three digits."""
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.1f}" if metric.unit == "share" else f"{value:{plus}.3g}"


def _unit(metric: Metric) -> str:
    if metric.unit == "share":
        return " percentage points"
    return "" if metric.unit == metric.name else f" {metric.unit}"


def _called(system: str) -> str:
    """``zero_shot`` as people write it; a path or a model's name stays as it is."""
    known = {
        "zero_shot": "zero-shot",
        "few_shot": "few-shot",
        "majority": "the most frequent label or set of labels",
        "naive_bayes": "naive Bayes",
        "mean": "the mean of the labels",
        "ridge": "ridge regression",
        "longer": "always taking the longer answer",
        "likelihood": "always taking the likelier answer",
    }
    return known.get(system, system)
