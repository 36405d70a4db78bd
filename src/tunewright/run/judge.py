"""Score any model on any file, and compare models on the same rows; the same proof as at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.core import events
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.events import Observer, Stage
from tunewright.core.records import Example, Text
from tunewright.data.load import load as load_rows
from tunewright.data.render import Renderer
from tunewright.evaluate.baselines import choose_shots
from tunewright.evaluate.bootstrap import interval
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.runner import Answers, Evaluator, longest_answer, questions
from tunewright.evaluate.suggest import suggest
from tunewright.models.forward import ModelForward
from tunewright.models.generate import Sampling
from tunewright.models.load import load
from tunewright.models.precision import use_all_cores
from tunewright.run.prove import measure
from tunewright.run.publish import clusters_of


@dataclass(frozen=True)
class Judging:
    """How to ask and how to score."""

    metrics: Sequence[str] = ()  # empty: chosen from the reference answers
    columns: dict[str, str] | None = None
    rows: int | None = None
    shots: int = 0
    shots_from: str | None = None
    max_new_tokens: int | None = None
    batch_size: int = 32
    level: float = 0.95
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0


def evaluate(
    model: str | Path, data: str | Path, how: Judging | None = None, observe: Observer = events.silent
) -> dict[str, Any]:
    """Metrics of one model on one file, each with n and interval."""
    how = how or Judging()
    examples = _rows_of(data, how)
    answers, evaluator = _ask(str(model), examples, how, observe)
    clusters = clusters_of(evaluator)
    return {
        "model": str(model),
        "data": str(data),
        "n": len(evaluator.questions),
        "shots": how.shots,
        "seconds": round(answers.seconds, 2),
        "unfinished": answers.unfinished,
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
    models: Sequence[str | Path],
    data: str | Path,
    how: Judging | None = None,
    observe: Observer = events.silent,
) -> dict[str, Any]:
    """The last of ``models`` against each of the others on the same rows: differences, intervals, verdict."""
    names = [str(m) for m in models]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError("compare needs at least two different models; the last is the candidate")
    how = how or Judging()
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


def _rows_of(data: str | Path, how: Judging) -> list[Example]:
    loaded = load_rows([str(data)], columns=how.columns)
    bad = [p for p in loaded.problems if p.action == "rejected"]
    if bad:
        raise DataError(
            f"{len(bad)} row(s) of {data} are unusable, the first at line {bad[0].line}: {bad[0].reason};"
            f" see `tunewright data check {data}`"
        )
    if len(loaded.examples) < 2:
        raise DataError(f"{data} has {len(loaded.examples)} usable row(s); an interval needs at least two")
    return loaded.examples


def _ask(
    model: str, examples: Sequence[Example], how: Judging, observe: Observer
) -> tuple[Answers, Evaluator]:
    use_all_cores()
    observe(Stage("load model", model))
    loaded = load(model, device=how.device, dtype=how.dtype)
    for note in loaded.notes:
        observe(Stage("note", note))
    renderer = Renderer(loaded.tokenizer)
    asked = questions(examples, how.rows)
    documents = all(isinstance(q.example, Text) for q in asked)
    names = list(how.metrics) or (
        ["perplexity"] if documents else list(suggest([q.reference for q in asked]).metrics)
    )
    evaluator = Evaluator(
        renderer=renderer,
        questions=asked,
        metrics=names,
        sampling=Sampling(
            max_new_tokens=how.max_new_tokens or longest_answer(renderer, asked), stop_ids=renderer.stop_ids
        ),
        forward_of=lambda m: ModelForward(m, compute=loaded.precision.dtype),
        batch_size=how.batch_size,
        on_progress=lambda done, total: observe(events.Progress("answers", done, total)),
    )
    shots = []
    if how.shots:
        if how.shots_from is None:
            raise ConfigError("few-shot evaluation needs a file to take the examples from (--shots-from)")
        shots = choose_shots(load_rows([how.shots_from], columns=how.columns).examples, how.shots, how.seed)
    observe(Stage("score", f"{len(asked)} rows"))
    return evaluator(loaded.model, shots), evaluator
