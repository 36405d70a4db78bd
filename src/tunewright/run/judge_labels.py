"""Judging classes that a head names: one of several, any number, or a rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.events import Observer
from tunewright.core.names import nearest
from tunewright.core.records import Example, Labelled
from tunewright.evaluate import text_baselines
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.runner import Answers, Evaluator, drawn, questions
from tunewright.models.load import Loaded
from tunewright.models.score import head_called
from tunewright.objectives.calibrate import best_temperature
from tunewright.objectives.predict import Prediction
from tunewright.run import asking
from tunewright.run.compose import Parts
from tunewright.run.judge_heads import (
    Columns,
    HeadJudge,
    Reading,
    Telling,
    classical,
    head_judge,
    scored,
)
from tunewright.run.judges import JudgeKind
from tunewright.run.judging import Settled
from tunewright.run.session import Session

Facts = Mapping[str, Any]
SINGLE = frozenset({"accuracy", "macro_f1", "rank_error", "calibration_error"})
MULTI = frozenset({"label_f1", "label_macro_f1", "label_exact"})
LEAST = 0.05  # probability from which a label of several is shown


def suggest(rows: Sequence[Example]) -> tuple[list[str], str]:
    """Metrics for these labels, and why."""
    if any(isinstance(row, Labelled) and isinstance(row.label, tuple) for row in rows):
        return ["label_f1", "label_macro_f1", "label_exact"], "a row may have several labels"
    return ["accuracy", "macro_f1", "calibration_error"], "a head names one label"


def refine(names: list[str], objective: Any) -> list[str]:
    """Where labels have an order, how far off a prediction is."""
    return [*names[:1], "rank_error", *names[1:]] if objective.options.kind == "ordinal" else names


def make(session: Session, parts: Parts, rows: Sequence[Example], metrics: Sequence[str]) -> HeadJudge:
    """The judge over ``rows``, or a seeded draw of them, as the recipe says."""
    recipe = session.recipe
    how = Reading(metrics, recipe.data.max_length, recipe.train.at_once)
    asked = drawn(rows, recipe.evaluate.rows, recipe.train.seed)
    if len(asked) < len(rows):
        session.note([f"{len(asked)} of {len(rows)} rows are scored, a seeded draw"])
    telling = telling_of(parts.objective.heads["score"].facts)
    return head_judge(parts.loaded, asked, how, telling, session.observe)


def of_model(loaded: Loaded, rows: Sequence[Example], how: Settled, observe: Observer) -> HeadJudge:
    """The judge of a classifier that was saved."""
    facts = head_called(loaded.model, "score").facts
    names = list(how.metrics) or suggest(rows)[0]
    return head_judge(loaded, rows, Reading(names, how.piece, how.micro_tokens), telling_of(facts), observe)


def telling_of(facts: Facts) -> Telling:
    """How a head with these facts is shown and measured."""
    kind, labels = facts["kind"], facts["labels"]
    columns: dict[str, Columns] = {
        "accuracy": lambda ps, right: ([p.value for p in ps], right),
        "macro_f1": lambda ps, right: ([p.value for p in ps], right),
        "calibration_error": partial(_sureness, labels),
    }
    if kind == "ordinal":
        columns["rank_error"] = lambda ps, right: (
            [labels.index(p.value) for p in ps],
            [labels.index(label) for label in right],
        )
    if kind == "multi":
        columns = dict.fromkeys(MULTI, lambda ps, right: ([p.value for p in ps], right))
    return Telling(partial(named, facts), _shown, partial(_note, labels), columns)


def named(facts: Facts, row: Labelled) -> str | tuple[str, ...]:
    """The label of a row as the head names it.

    Raises ``DataError`` for a label of another kind, or one that the head never learnt.
    """
    several, label = facts["kind"] == "multi", row.label
    if isinstance(label, bool) or not isinstance(label, tuple if several else str | int):
        wanted = "a list of labels" if several else "one label"
        raise DataError(f"{row.meta.where()}: the label is {label!r}, but this head names {wanted}")
    found = tuple(label) if isinstance(label, tuple) else str(label)
    for name in found if isinstance(found, tuple) else (found,):
        if name not in facts["labels"]:
            raise DataError(
                f"{row.meta.where()}: the label {name!r} is none of the {len(facts['labels'])} labels of this"
                f" head, so it can never be predicted. {nearest(name, facts['labels'])} Correct or remove the"
                " row, or train with rows of this label"
            )
    return found


def calibrate(session: Session, parts: Parts, rows: Sequence[Example], model: Any) -> None:
    """Divide the head by the temperature at which its probabilities fit the validation rows best."""
    objective: Any = parts.objective
    if objective.options.temperature == "none":
        return
    sequences = [tokens for row in rows for tokens in objective.encode(row, parts.renderer)]
    scores = scored(session, parts, sequences, model)
    kind = objective.options.kind
    names = [f"label_{k}" for k in range(len(objective.labels))] if kind == "multi" else ["label"]
    labels = torch.tensor([[tokens.extras[name] for name in names] for tokens in sequences])
    labels = labels if kind == "multi" else labels[:, 0].long()
    temperature = best_temperature(scores, labels, kind)
    head = head_called(model, "score")
    with torch.no_grad():
        for parameter in head.parameters():
            parameter /= temperature
    session.note([f"probabilities fitted to {len(rows)} validation rows (temperature {temperature:.3g})"])


def _labels(session: Session, parts: Parts) -> Any:
    return parts.objective.heads["score"].facts["labels"]


def zero_shot(
    session: Session, parts: Parts, judge: HeadJudge, train: Sequence[Example]
) -> Callable[[], Answers]:
    """The untouched model writes the label."""
    return partial(_writer(session, parts, judge), parts.loaded.model)


def few_shot(
    session: Session, parts: Parts, judge: HeadJudge, train: Sequence[Example]
) -> Callable[[], Answers]:
    """The untouched model writes the label after examples from the training rows."""
    recipe, writer = session.recipe, _writer(session, parts, judge)
    shots = asking.fitting_shots(
        writer, _written(train), recipe.evaluate.shots, recipe.train.seed, session.warn
    )
    return partial(writer, parts.loaded.model, shots)


def _writer(session: Session, parts: Parts, judge: HeadJudge) -> Evaluator:
    """The judge of a model that writes labels, by those metrics that compare texts."""
    names = [name for name in judge.metrics if METRICS[name].needs == "text"]
    if names[:1] != list(judge.metrics[:1]):
        raise ConfigError(
            f"evaluate.baselines: a model that writes its answer cannot be measured by {judge.metrics[0]};"
            " leave zero_shot and few_shot out, or name accuracy or macro_f1 first in evaluate.metrics"
        )
    recipe = session.recipe
    asked = questions(_written([q.example for q in judge.questions]))
    new = recipe.evaluate.max_new_tokens
    how = asking.Asking(
        metrics=names,
        max_new_tokens=asking.longest(parts.loaded, asked)[0] if new == "auto" else new,
        batch_size=recipe.evaluate.batch_size,
        micro_tokens=recipe.train.at_once,
    )
    return asking.evaluator(parts.loaded, asked, how, session.observe)


def _written(rows: Sequence[Example]) -> list[Example]:
    """Labels as texts, so that they can be answers."""
    return [replace(row, label=str(row.label)) if isinstance(row, Labelled) else row for row in rows]


def _sureness(labels: Sequence[str], predictions: Sequence[Prediction], right: Sequence[Any]) -> Any:
    """The probability of each prediction, and whether it is right."""
    sure = [p.probabilities[labels.index(str(p.value))] for p in predictions]
    return sure, [p.value == label for p, label in zip(predictions, right, strict=True)]


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(sorted(value)) or "(none)"
    return str(value)


def _note(labels: Sequence[str], prediction: Prediction) -> str:
    """``93 % sure``; with several labels the probability of each that is likely at all."""
    if isinstance(prediction.value, tuple):
        pairs = sorted(zip(prediction.probabilities, labels, strict=True), reverse=True)
        return ", ".join(f"{label} {p:.0%}" for p, label in pairs if p >= LEAST)
    return f"{prediction.probabilities[labels.index(str(prediction.value))]:.0%} sure"


KIND = JudgeKind(
    suggest,
    make,
    {
        "majority": classical(text_baselines.majority, _labels),
        "naive_bayes": classical(text_baselines.naive_bayes, _labels),
        "zero_shot": zero_shot,
        "few_shot": few_shot,
    },
    ("majority", "naive_bayes"),
    refine=refine,
    calibrate=calibrate,
    measures=SINGLE | MULTI,
    of_model=of_model,
)
