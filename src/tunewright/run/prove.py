"""From answers to proof: estimates with intervals, paired differences, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunewright.core.hashing import unit_interval
from tunewright.evaluate.bootstrap import interval
from tunewright.evaluate.compare import paired
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.runner import Answers, Question
from tunewright.evaluate.verdict import verdict

SHOWN = 8  # answers of each group in the report


def measure(
    systems: dict[str, Answers],
    tuned: str,
    metrics: Sequence[str],
    *,
    level: float,
    clusters: Sequence[str | None] | None,
    beside: frozenset[str] = frozenset(),
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every metric of every system with interval, the paired differences of ``tuned``, and the verdict.

    The first metric decides. A metric is left out where ``tuned`` has no scores for it, and so is a system
    that has none. ``clusters`` names the group of each row; a group is resampled as a whole. Systems that
    stand ``beside`` are compared with, but have no part in the verdict.
    """
    table = []
    deciding: dict[str, Any] = {}
    for position, name in enumerate(metrics):
        metric = METRICS[name]
        rows = {system: a.scores[name] for system, a in systems.items() if name in a.scores}
        if tuned not in rows:
            continue
        differences = {
            system: paired(metric, r, rows[tuned], level=level, clusters=clusters)
            for system, r in rows.items()
            if system != tuned
        }
        table.append(
            {
                "name": name,
                "description": metric.description,
                "unit": metric.unit,
                "higher_is_better": metric.higher_is_better,
                "n": len(rows[tuned]),
                "primary": position == 0,
                "systems": {
                    s: interval(metric, r, level=level, clusters=clusters).to_dict() for s, r in rows.items()
                },
                "differences": {s: d.to_dict() for s, d in differences.items()},
            }
        )
        if position == 0:
            deciding = {system: found for system, found in differences.items() if system not in beside}
    if metrics[0] not in systems[tuned].scores:
        return table, no_proof(f"{metrics[0]}, which was to decide, could not be measured.")
    if not deciding:
        return table, no_proof("There is no baseline to compare with; set evaluate.baselines.")
    return table, verdict(deciding, METRICS[metrics[0]]).to_dict()


def no_proof(reason: str) -> dict[str, Any]:
    """The verdict when nothing could be measured."""
    return {
        "word": "CAN'T TELL",
        "metric": None,
        "against": None,
        "difference": None,
        "reason": reason,
        "rows_that_would_decide": None,
    }


def side_by_side(
    questions: Sequence[Question],
    systems: dict[str, Answers],
    tuned: str,
    metric_name: str,
    beside: frozenset[str] = frozenset(),
) -> list[dict[str, Any]]:
    """Answers to show: where the tuned model gained most, lost most, and a seeded random draw; none twice."""
    metric = METRICS[metric_name]
    if not systems[tuned].texts or metric_name not in systems[tuned].scores:
        return []
    sign = 1.0 if metric.higher_is_better else -1.0
    systems = {name: a for name, a in systems.items() if metric_name in a.scores}
    scores = {name: _row_scores(metric, a.scores[metric_name]) for name, a in systems.items()}
    others = [name for name in systems if name != tuned and name not in beside]
    rival = max(others, key=lambda n: sign * float(np.mean(scores[n]))) if others else None
    gain = sign * (scores[tuned] - (scores[rival] if rival else 0.0))
    by_gain = [int(i) for i in np.argsort(-gain, kind="stable")]
    drawn = sorted(range(len(questions)), key=lambda i: unit_interval("shown", questions[i].where))
    taken: set[int] = set()
    groups: list[tuple[str, int]] = []
    for group, order in (  # drawn first, so that nothing but the draw decides what is among them
        ("random", drawn),
        ("worst", sorted(by_gain, key=lambda i: (sign * scores[tuned][i], gain[i]))),
        ("best", by_gain),
    ):
        picked = [i for i in order if i not in taken][:SHOWN]
        taken |= set(picked)
        groups += [(group, i) for i in picked]
    return [_shown(questions[i], systems, scores, i, group) for group, i in groups]


def _row_scores(metric: Any, rows: np.ndarray) -> np.ndarray:
    return np.asarray(metric.per_row(rows), dtype=float)


def _shown(
    question: Question, systems: dict[str, Answers], scores: dict[str, np.ndarray], i: int, group: str
) -> dict[str, Any]:
    return {
        "where": question.where,
        "prompt": "\n\n".join(m.content for m in question.prompt if m.role not in {"system", "developer"}),
        "reference": question.reference,
        "answers": {name: a.texts[i] for name, a in systems.items()},
        "notes": {name: a.notes[i] for name, a in systems.items() if a.notes},
        "scores": {name: float(scores[name][i]) for name in systems},
        "group": group,
    }
