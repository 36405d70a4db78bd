"""What the report says about scores: the verdict banner, the interval charts, the table of metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from tunewright.evaluate import show
from tunewright.evaluate.charts import Interval, interval_chart, interval_mark

View = dict[str, Any]

TUNED = "tuned"
_SYSTEMS = {
    "zero_shot": "Untouched model",
    "few_shot": "Few-shot prompt",
    "retrieval": "Retrieval prompt",
    "teacher": "Teacher",
    "majority": "Most frequent label or set of labels",
    "naive_bayes": "Naive Bayes on words",
    "mean": "Mean of the labels",
    "ridge": "Ridge regression on words",
    "longer": "The longer answer",
    "likelihood": "The likelier answer",
    TUNED: "Tuned model",
}
_PARTS = ("systems", "differences")
_TONES = {"SHIP": "good", "DON'T SHIP": "bad", "CAN'T TELL": "open"}


_CHARTED = 3  # metrics in one chart of differences; more would bury the deciding one


def system_name(name: str) -> str:
    """What a reader calls ``zero_shot``, ``few_shot``, ``tuned`` …"""
    return _SYSTEMS.get(name) or show.words_of(name)


def systems_in_order(names: Mapping[str, Any]) -> list[str]:
    """Baselines first, in a fixed order, the tuned model last."""
    known = [n for n in _SYSTEMS if n in names and n != TUNED]
    return known + [n for n in names if n not in _SYSTEMS] + [n for n in (TUNED,) if n in names]


def metrics_of(result: Mapping[str, Any]) -> list[View]:
    """The metrics in units people read (a share as percent), the deciding one first and flagged."""
    named = (result.get("verdict") or {}).get("metric")
    metrics = [_readable(m) for m in result.get("metrics") or []]
    first = next(
        (m for m in metrics if m["name"] == named), next((m for m in metrics if m.get("primary")), None)
    )
    return [m | {"deciding": m is first} for m in sorted(metrics, key=lambda m: m is not first)]


def primary_metric(result: Mapping[str, Any]) -> View | None:
    """The metric that the verdict rests on, or the one marked as primary, or ``None``."""
    return next((m for m in metrics_of(result) if m["deciding"]), None)


def _readable(metric: View) -> View:
    if metric["unit"] == metric["name"]:  # "perplexity 12.3" needs no second "perplexity"
        return metric | {"unit": ""}
    if metric["unit"] != "share":
        return metric
    scaled = {part: {k: _times_100(v) for k, v in (metric.get(part) or {}).items()} for part in _PARTS}
    return metric | scaled | {"unit": "%"}


def _times_100(estimate: View) -> View:
    return {k: 100 * v if k in ("value", "low", "high") and v is not None else v for k, v in estimate.items()}


def level_of(result: Mapping[str, Any]) -> str:
    """The confidence level of the intervals: ``95 %`` unless the estimates say otherwise."""
    estimates = [e for m in result.get("metrics") or [] for e in m["systems"].values()]
    level = next((e["level"] for e in estimates if "level" in e), 0.95)
    return f"{100 * level:g}\u00a0%"


def verdict(result: Mapping[str, Any]) -> View:
    """The banner: word, reason, deciding metric before and after, and what would decide an open case."""
    found = result["verdict"]
    metric = primary_metric(result)
    view: View = {"word": found["word"], "tone": _TONES.get(found["word"], "open"), "reason": found["reason"]}
    view |= {
        "metric": metric["name"] if metric else None,
        "before": None,
        "after": None,
        "change": None,
        "n": None,
    }
    view["decide"] = _what_would_decide(found, metric)
    if metric is None:
        return view
    decimals = _decimals(metric)
    scores, against = metric["systems"], found.get("against")
    view["n"] = metric["n"]
    view["after"] = _score(metric, TUNED, decimals) if TUNED in scores else None
    view["before"] = _score(metric, against, decimals) if against in scores else None
    difference = (metric.get("differences") or {}).get(against)
    if difference:
        bounds = show.interval(difference["low"], difference["high"], decimals, sign=True)
        view["change"] = f"{show.change(difference['value'], metric['unit'], decimals)} ({bounds})"
    return view


def _what_would_decide(found: Mapping[str, Any], metric: View | None) -> str | None:
    if found["word"] != "CAN'T TELL":
        return None
    rows, had = found.get("rows_that_would_decide"), metric["n"] if metric else None
    if rows is None:
        return "No number of test rows can be named that would decide: there is no difference to go by."
    text = f"About {show.number(rows)} test rows would decide"
    return f"{text}; this run had {show.number(had)}." if had is not None else f"{text}."


def _decimals(metric: View) -> int:
    return show.decimals_for(metric["unit"], [s["value"] for s in metric["systems"].values()])


def _score(metric: View, system: str, decimals: int) -> View:
    score = metric["systems"][system]
    return {
        "name": system_name(system),
        "value": show.quantity(score["value"], metric["unit"], decimals),
        "interval": show.interval(score.get("low"), score.get("high"), decimals),
    }


def forests(result: Mapping[str, Any]) -> list[View]:
    """One chart of differences per unit and direction, the deciding metric first; the table has the rest."""
    grouped: dict[tuple[str, bool], list[View]] = {}
    for metric in metrics_of(result):
        grouped.setdefault((metric["unit"], metric["higher_is_better"]), []).append(metric)
    groups = {
        key: [
            row
            for metric in metrics[:_CHARTED]
            for name in systems_in_order(metric.get("differences") or {})
            for row in _forest_row(metric, name)
        ]
        for key, metrics in grouped.items()
    }
    axis = {True: ("worse", "better"), False: ("better", "worse")}
    return [
        {"wide": interval_chart(rows, axis[higher]), "narrow": interval_chart(rows, axis[higher], 310)}
        for (_, higher), rows in groups.items()
        if rows
    ]


def _forest_row(metric: View, baseline: str) -> list[Interval]:
    found, decimals = metric["differences"][baseline], _decimals(metric)
    if not _drawable(found):
        return []
    sign = 1 if metric["higher_is_better"] else -1
    low, high = sorted((sign * found["low"], sign * found["high"]))
    tone = "good" if low > 0 else "bad" if high < 0 else "open"
    label = f"{metric['name']} vs {system_name(baseline).lower()}"
    bounds = show.interval(found["low"], found["high"], decimals, sign=True)
    text = f"{show.number(found['value'], decimals, sign=True)} ({bounds})"
    return [Interval(label, found["value"], found["low"], found["high"], text, tone)]


def metrics_table(result: Mapping[str, Any]) -> list[View]:
    """One group per metric, one row per system with score, interval and the tuned model's lead over it."""
    views = []
    for metric in metrics_of(result):
        drawn = [s for s in metric["systems"].values() if _drawable(s)]
        span = (min((s["low"] for s in drawn), default=0.0), max((s["high"] for s in drawn), default=1.0))
        rows = [_metric_row(metric, name, span) for name in systems_in_order(metric["systems"])]
        better = "higher is better" if metric["higher_is_better"] else "lower is better"
        views.append(
            metric
            | {
                "description": show.sentence(metric["description"]),
                "rows": rows,
                "better": better,
                "count": _count(metric),
            }
        )
    return views


def _count(metric: View) -> str:
    """``n = 60``; rows that belong together are said to be resampled together."""
    units = next((s["units"] for s in metric["systems"].values() if "units" in s), metric["n"])
    groups = f" in {show.number(units)} groups resampled as a whole" if units != metric["n"] else ""
    return f"n = {show.number(metric['n'])}{groups}"


def _drawable(estimate: View) -> bool:
    """Whether value and interval are finite numbers."""
    numbers = [estimate.get(k) for k in ("value", "low", "high")]
    return all(v is not None and math.isfinite(v) for v in numbers)


def _metric_row(metric: View, name: str, span: tuple[float, float]) -> View:
    score, decimals = metric["systems"][name], _decimals(metric)
    row = _score(metric, name, decimals) | {"tuned": name == TUNED, "mark": Markup(), "lead": None}
    if _drawable(score):
        style = "tuned" if name == TUNED else "base"
        row["mark"] = interval_mark(score["value"], score["low"], score["high"], span, style)
    found = (metric.get("differences") or {}).get(name)
    if found:
        row["lead"] = {
            "value": show.change(found["value"], metric["unit"], decimals),
            "interval": show.interval(found["low"], found["high"], decimals, sign=True),
            "p": show.p_value(found.get("p")),
            "record": [show.number(found.get(k)) for k in ("wins", "losses", "ties")]
            if "wins" in found
            else None,
        }
    return row
