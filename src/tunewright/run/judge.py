"""Score any model on any file, and compare models on the same rows; the same proof as at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tunewright.adapt.lora import fuse
from tunewright.core import events
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.events import Observer, Stage, Warned
from tunewright.core.records import Conversation, Example
from tunewright.data.load import load as load_rows
from tunewright.evaluate.bootstrap import interval
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.runner import Answers, Evaluator, reading
from tunewright.models.load import load
from tunewright.models.precision import use_all_cores
from tunewright.run import asking
from tunewright.run.judging import Judging, Settled, settled
from tunewright.run.prove import measure
from tunewright.run.publish import clusters_of
from tunewright.run.session import Run

__all__ = ["Judging", "Model", "compare", "evaluate"]

Model = str | Path | Run


def evaluate(
    model: Model, data: str | Path, how: Judging | None = None, observe: Observer = events.silent
) -> dict[str, Any]:
    """Metrics of one model on one file, each with n and interval."""
    name = _name_of(model)
    fixed = settled(how or Judging(), name, data)
    subject, evaluator = _judge(name, _rows_of(data, fixed.columns), fixed, observe)
    shots = _shots(evaluator, fixed, observe)
    answers = _scored(subject, evaluator, shots, observe)
    clusters = clusters_of(evaluator.questions)
    return {
        "model": name,
        "data": str(data),
        "n": len(evaluator.questions),
        "shots": fixed.shots,
        "seconds": round(answers.seconds, 2),
        "unfinished": answers.unfinished,
        "new_tokens": answers.new_tokens,
        "metrics": [
            {
                "name": name,
                "unit": METRICS[name].unit,
                "higher_is_better": METRICS[name].higher_is_better,
                **interval(
                    METRICS[name], answers.scores[name], level=fixed.level, clusters=clusters
                ).to_dict(),
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
    fixed = settled(how or Judging(), names[-1], data)
    examples = _rows_of(data, fixed.columns)
    systems: dict[str, Answers] = {}
    read: dict[str, list[int]] = {}
    for name in names:
        subject, evaluator = _judge(name, examples, fixed, observe)
        read[name] = _tokens_read(evaluator)
        _check_same_tokens(read, evaluator)
        systems[name] = _scored(subject, evaluator, _shots(evaluator, fixed, observe), observe)
        del subject  # so that two models are never held at once
    table, verdict = measure(
        systems, names[-1], evaluator.metrics, level=fixed.level, clusters=clusters_of(evaluator.questions)
    )
    return {
        "candidate": names[-1],
        "baselines": names[:-1],
        "data": str(data),
        "n": len(evaluator.questions),
        "unfinished": {name: answers.unfinished for name, answers in systems.items()},
        "metrics": table,
        "verdict": verdict,
    }


def _name_of(model: Model) -> str:
    return str(model.path if isinstance(model, Run) else model)


def _rows_of(data: str | Path, columns: dict[str, str] | None) -> list[Example]:
    examples = _usable(data, columns)
    if len(examples) < 2:
        raise DataError(f"{data} has {len(examples)} usable row(s); an interval needs at least two")
    return examples


def _usable(data: str | Path, columns: dict[str, str] | None) -> list[Example]:
    loaded = load_rows([str(data)], columns=columns)
    if bad := loaded.rejected:
        raise DataError(
            f"{len(bad)} row(s) of {data} are unusable, the first at line {bad[0].line}: {bad[0].reason};"
            f" see `tunewright data check {data}`"
        )
    return loaded.examples


def _judge(name: str, examples: Sequence[Example], how: Settled, observe: Observer) -> tuple[Any, Evaluator]:
    """The model called ``name``, and the judge over ``examples`` that reads with its tokenizer."""
    use_all_cores()
    observe(Stage("load model", name))
    loaded = load(name, device=how.device, dtype=how.dtype, weights=how.weights)
    if loaded.ref.adapter is not None:
        fuse(loaded.model)  # the same arithmetic as in training, so the same numbers to the last bit
    asked = asking.chosen(examples, how.rows, how.seed, _noted(observe))
    evaluator = asking.evaluator(
        loaded,
        asked,
        asking.Asking(
            metrics=list(how.metrics) or asking.suggested(asked)[0],
            max_new_tokens=how.max_new_tokens or asking.longest(loaded, asked)[0],
            piece=how.piece,
            batch_size=how.batch_size,
            micro_tokens=how.micro_tokens,
        ),
        observe,
    )
    for note in (*loaded.notes, *evaluator.renderer.notes):
        observe(Stage("note", note))
    return loaded.model, evaluator


def _scored(model: Any, judge: Evaluator, shots: Sequence[Conversation], observe: Observer) -> Answers:
    observe(Stage("score", f"{len(judge.questions)} rows"))
    answers = judge(model, shots)
    for sentence in judge.remarks(answers):
        observe(Warned(0, sentence))
    return answers


def _tokens_read(judge: Evaluator) -> list[int]:
    """Tokens of each reference answer as the model reads it; empty if no metric is about likelihood."""
    if all(METRICS[name].needs != "logprobs" for name in judge.metrics):
        return []
    return [sum(t.trained for t in reading(judge.renderer, q, judge.piece)) for q in judge.questions]


def _check_same_tokens(read: dict[str, list[int]], judge: Evaluator) -> None:
    """Likelihood per token has a common measure only where all models read the same number of tokens."""
    one, other = next(iter(read)), next(reversed(read))
    for question, a, b in zip(judge.questions, read[one], read[other], strict=False):  # or none at all
        if a != b:
            name = next(n for n in judge.metrics if METRICS[n].needs == "logprobs")
            raise ConfigError(
                f"{name} is per token, and {one} reads {question.where} as {a} tokens but {other} as {b};"
                " compare models with different tokenizers by a metric of their answers (--metric)"
            )


def _shots(judge: Evaluator, how: Settled, observe: Observer) -> list[Conversation]:
    if not how.shots:
        if how.shots_from is not None:
            raise ConfigError("--shots-from has no effect without --shots; say how many examples to take")
        return []
    if how.shots_from is None:
        raise ConfigError("few-shot evaluation needs a file to take the examples from (--shots-from)")
    rows = asking.apart(_usable(how.shots_from, how.columns), judge.questions, _noted(observe))
    return asking.fitting_shots(judge, rows, how.shots, how.seed, lambda text: observe(Warned(0, text)))


def _noted(observe: Observer) -> Callable[[str], None]:
    return lambda text: observe(Stage("note", text))
