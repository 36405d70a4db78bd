"""Judging numbers that a head gives, and the prediction intervals around them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tunewright.core.errors import DataError
from tunewright.core.events import Observer
from tunewright.core.records import Example, Labelled
from tunewright.evaluate import text_baselines
from tunewright.evaluate.runner import drawn
from tunewright.models.load import Loaded
from tunewright.models.score import head_called
from tunewright.objectives.predict import Prediction, half_width, predict
from tunewright.run.compose import Parts
from tunewright.run.judge_heads import (
    Columns,
    HeadJudge,
    Reading,
    Telling,
    as_labelled,
    classical,
    head_judge,
    scored,
)
from tunewright.run.judges import JudgeKind
from tunewright.run.judging import Settled
from tunewright.run.session import Session

METRICS = ["mae", "rmse", "r2", "interval_coverage", "interval_width"]


def suggest(rows: Sequence[Example]) -> tuple[list[str], str]:
    """Errors in the unit of the labels, and what the intervals are worth."""
    return METRICS, "a head gives a number"


def make(session: Session, parts: Parts, rows: Sequence[Example], metrics: Sequence[str]) -> HeadJudge:
    """The judge over ``rows``, or a seeded draw of them, as the recipe says."""
    recipe = session.recipe
    how = Reading(metrics, recipe.data.max_length, recipe.train.at_once)
    asked = drawn(rows, recipe.evaluate.rows, recipe.train.seed)
    if len(asked) < len(rows):
        session.note([f"{len(asked)} of {len(rows)} rows are scored, a seeded draw"])
    telling = telling_of({"level": recipe.evaluate.level})
    return head_judge(parts.loaded, asked, how, telling, session.observe)


def of_model(loaded: Loaded, rows: Sequence[Example], how: Settled, observe: Observer) -> HeadJudge:
    """The judge of a regressor that was saved."""
    facts = head_called(loaded.model, "score").facts
    names = list(how.metrics) or [m for m in METRICS if "half_width" in facts or m not in METRICS[3:]]
    return head_judge(loaded, rows, Reading(names, how.piece, how.micro_tokens), telling_of(facts), observe)


def telling_of(facts: Mapping[str, Any]) -> Telling:
    """How numbers are shown and measured; ``level`` of the facts is that of the intervals."""
    columns: dict[str, Columns] = dict.fromkeys(METRICS[:3], _values)
    columns |= dict.fromkeys(METRICS[3:], _intervals)
    return Telling(number_of, "{:.6g}".format, partial(_note, facts.get("level")), columns)


def number_of(row: Labelled) -> float:
    """The label as a number; raises ``DataError`` for one that is none."""
    try:
        value = math.nan if isinstance(row.label, bool | tuple) else float(row.label)
    except (ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"{row.meta.where()}: the label is {row.label!r}, but this head gives a number; correct the row"
        )
    return value


def calibrate(session: Session, parts: Parts, rows: Sequence[Example], model: Any) -> None:
    """Put the half width of prediction intervals into the facts of the head, from its errors on ``rows``."""
    sequences = [tokens for row in rows for tokens in parts.objective.encode(row, parts.renderer)]
    head, level = head_called(model, "score"), session.recipe.evaluate.level
    head.facts.pop("half_width", None)
    predictions = predict(scored(session, parts, sequences, model), head.facts)
    right = {row.meta.where(): number_of(as_labelled(row)) for row in rows}
    pairs = zip(predictions, sequences, strict=True)
    residuals = [right[tokens.meta.where()] - float(p.value) for p, tokens in pairs]  # type: ignore[arg-type]
    try:
        head.facts |= {"half_width": half_width(residuals, level), "level": level}
    except DataError as error:
        session.warn(f"no prediction intervals: {error}")


def _level(session: Session, parts: Parts) -> float:
    return session.recipe.evaluate.level


def _values(predictions: Sequence[Prediction], right: Sequence[Any]) -> Any:
    return [p.value for p in predictions], right


def _intervals(predictions: Sequence[Prediction], right: Sequence[Any]) -> Any:
    """``None`` where there were too few rows to say how wide they must be."""
    found = [p.interval for p in predictions]
    return None if None in found else (found, right)


def _note(level: float | None, prediction: Prediction) -> str:
    """``95 % interval 3.1 to 4.2``."""
    if prediction.interval is None:
        return ""
    low, high = prediction.interval
    return f"{level:.0%} interval {low:.4g} to {high:.4g}"


KIND = JudgeKind(
    suggest,
    make,
    {
        "mean": classical(text_baselines.mean, _level),
        "ridge": classical(text_baselines.ridge, _level),
    },
    ("mean", "ridge"),
    calibrate=calibrate,
    measures=frozenset(METRICS),
    of_model=of_model,
)
