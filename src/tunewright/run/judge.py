"""Score any model on any file, and compare models on the same rows; the same proof as at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tunewright.adapt.lora import fuse
from tunewright.core import events
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.events import Observer, Stage, Warned
from tunewright.core.paths import RunDir
from tunewright.core.records import Conversation, Example
from tunewright.data.load import load as load_rows
from tunewright.evaluate.bootstrap import interval
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.runner import Answers, Evaluator, questions
from tunewright.models.load import load
from tunewright.models.precision import use_all_cores
from tunewright.run import asking
from tunewright.run.compose import FULL_PRECISION
from tunewright.run.prove import measure
from tunewright.run.publish import clusters_of
from tunewright.run.resolve import read_recipe
from tunewright.run.session import Run


@dataclass(frozen=True)
class Judging:
    """How to ask and how to score.

    What is not given is taken from the recipe of the run that is judged, so that its numbers come out again;
    for any other model the defaults of a recipe hold. ``metrics``: empty for those that fit the answers.
    ``weights`` is the format weights are kept in, if not that of computing.
    """

    metrics: Sequence[str] = ()
    columns: dict[str, str] | None = None
    rows: int | None = None
    shots: int = 0
    shots_from: str | None = None
    max_new_tokens: int | None = None
    piece: int = 2048
    batch_size: int = 32
    micro_tokens: int = 2048
    level: float = 0.95
    device: str = "auto"
    dtype: str = "auto"
    weights: torch.dtype | None = None
    seed: int = 0


Model = str | Path | Run


def evaluate(
    model: Model, data: str | Path, how: Judging | None = None, observe: Observer = events.silent
) -> dict[str, Any]:
    """Metrics of one model on one file, each with n and interval."""
    name = _name_of(model)
    how = settled(how or Judging(), name)
    examples = _rows_of(data, how)
    answers, evaluator = _ask(name, examples, how, observe)
    clusters = clusters_of(evaluator)
    return {
        "model": name,
        "data": str(data),
        "n": len(evaluator.questions),
        "shots": how.shots,
        "seconds": round(answers.seconds, 2),
        "unfinished": answers.unfinished,
        "new_tokens": answers.new_tokens,
        "metrics": [
            {
                "name": name,
                "unit": METRICS[name].unit,
                "higher_is_better": METRICS[name].higher_is_better,
                **interval(METRICS[name], answers.scores[name], level=how.level, clusters=clusters).to_dict(),
            }
            for name in evaluator.metrics
        ],
    }


def compare(
    models: Sequence[Model],
    data: str | Path,
    how: Judging | None = None,
    observe: Observer = events.silent,
) -> dict[str, Any]:
    """The last of ``models`` against each of the others on the same rows: differences, intervals, verdict."""
    names = [_name_of(m) for m in models]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError("compare needs at least two different models; the last is the candidate")
    how = settled(how or Judging(), names[-1])
    examples = _rows_of(data, how)
    systems: dict[str, Answers] = {}
    for name in names:
        systems[name], evaluator = _ask(name, examples, how, observe)
    table, verdict = measure(
        systems, names[-1], evaluator.metrics, level=how.level, clusters=clusters_of(evaluator)
    )
    return {
        "candidate": names[-1],
        "baselines": names[:-1],
        "data": str(data),
        "n": len(evaluator.questions),
        "metrics": table,
        "verdict": verdict,
    }


def settled(how: Judging, name: str) -> Judging:
    """``how`` with what it leaves open taken from the run called ``name``, if it is one."""
    run = RunDir(Path(name))
    if not run.recipe.exists():
        return how
    recipe = read_recipe(run).recipe
    section, default = recipe.evaluate, Judging()
    found: dict[str, Any] = {
        "metrics": () if section.metrics == "auto" else tuple(section.metrics),
        "max_new_tokens": None if section.max_new_tokens == "auto" else section.max_new_tokens,
        "piece": recipe.data.max_length,
        "batch_size": section.batch_size,
        "micro_tokens": recipe.train.micro_tokens,
        "level": section.level,
        "dtype": recipe.model.dtype,
        "weights": torch.float32 if recipe.adapt.method in FULL_PRECISION else None,
        "seed": recipe.train.seed,
    }
    return replace(how, **{k: v for k, v in found.items() if getattr(how, k) == getattr(default, k)})


def _name_of(model: Model) -> str:
    return str(model.path if isinstance(model, Run) else model)


def _rows_of(data: str | Path, how: Judging) -> list[Example]:
    loaded = load_rows([str(data)], columns=how.columns)
    if bad := loaded.rejected:
        raise DataError(
            f"{len(bad)} row(s) of {data} are unusable, the first at line {bad[0].line}: {bad[0].reason};"
            f" see `tunewright data check {data}`"
        )
    if len(loaded.examples) < 2:
        raise DataError(f"{data} has {len(loaded.examples)} usable row(s); an interval needs at least two")
    return loaded.examples


def _ask(
    name: str, examples: Sequence[Example], how: Judging, observe: Observer
) -> tuple[Answers, Evaluator]:
    use_all_cores()
    observe(Stage("load model", name))
    loaded = load(name, device=how.device, dtype=how.dtype, weights=how.weights)
    if loaded.ref.adapter is not None:
        fuse(loaded.model)  # the same arithmetic as in training, so the same numbers to the last bit
    asked = questions(examples, how.rows)
    evaluator = asking.evaluator(
        loaded,
        asked,
        asking.Asking(
            metrics=list(how.metrics) or asking.suggested(asked)[0],
            max_new_tokens=how.max_new_tokens or asking.longest(loaded, asked),
            piece=how.piece,
            batch_size=how.batch_size,
            micro_tokens=how.micro_tokens,
        ),
        observe,
    )
    for note in (*loaded.notes, *evaluator.renderer.notes):
        observe(Stage("note", note))
    shots = _shots(evaluator, how, observe)
    observe(Stage("score", f"{len(asked)} rows"))
    return evaluator(loaded.model, shots), evaluator


def _shots(evaluator: Evaluator, how: Judging, observe: Observer) -> list[Conversation]:
    if not how.shots:
        if how.shots_from is not None:
            raise ConfigError("--shots-from has no effect without --shots; say how many examples to take")
        return []
    if how.shots_from is None:
        raise ConfigError("few-shot evaluation needs a file to take the examples from (--shots-from)")
    rows = load_rows([how.shots_from], columns=how.columns).examples
    return asking.fitting_shots(evaluator, rows, how.shots, how.seed, lambda text: observe(Warned(0, text)))
