"""Score any model on any file, and compare models on the same rows; the same proof as at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunewright.adapt.fused import fuse
from tunewright.core import events
from tunewright.core.errors import ConfigError, DataError, ModelError
from tunewright.core.events import Observer, Stage, Warned
from tunewright.core.records import Conversation, Example
from tunewright.data.load import load as load_rows
from tunewright.evaluate.bootstrap import interval
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.runner import Answers, Evaluator, drawn, reading
from tunewright.models.load import Loaded, load
from tunewright.models.precision import use_all_cores
from tunewright.models.score import head_called
from tunewright.run import asking
from tunewright.run.comparable import check_comparable
from tunewright.run.judge_preferences import PreferenceJudge, judges_answers
from tunewright.run.judge_rewards import of_run as by_rewards
from tunewright.run.judges import HEADS, JUDGES, Judge, JudgeKind
from tunewright.run.judging import Judging, Settled, settled, settled_for_all
from tunewright.run.one_task import as_asked, for_task, task_asked
from tunewright.run.prove import measure
from tunewright.run.publish import clusters_of
from tunewright.run.session import Run

__all__ = ["Judging", "Model", "compare", "evaluate"]

Model = str | Path | Run
WRITTEN = ("text", "logprobs")  # what metrics need of a model that is asked for answers


def evaluate(
    model: Model, data: str | Path, how: Judging | None = None, observe: Observer = events.silent
) -> dict[str, Any]:
    """Metrics of one model on one file, each with n and interval."""
    name, how = _name_of(model), how or Judging()
    fixed = settled(how, name, data)
    subject, judge = _judge(name, _rows_of(data, fixed.columns), (how, fixed), observe)
    answers = _scored(subject, judge, fixed, observe)
    clusters = clusters_of(judge.questions)
    return {
        "model": name,
        "data": str(data),
        "n": len(judge.questions),
        "shots": fixed.shots,
        "seconds": round(answers.seconds, 2),
        "unfinished": answers.unfinished,
        "new_tokens": answers.new_tokens,
        "metrics": [
            {
                "name": as_asked(name, how.metrics),
                "unit": METRICS[name].unit,
                "higher_is_better": METRICS[name].higher_is_better,
                **interval(
                    METRICS[name], answers.scores[name], level=fixed.level, clusters=clusters
                ).to_dict(),
            }
            for name in judge.metrics
            if name in answers.scores
        ],
    }


def compare(
    models: Sequence[Model],
    data: str | Path,
    how: Judging | None = None,
    observe: Observer = events.silent,
) -> dict[str, Any]:
    """The last of ``models`` against each of the others on the same rows: differences, intervals, verdict."""
    names, how = [_name_of(m) for m in models], how or Judging()
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError("compare needs at least two different models; the last is the candidate")
    fixed = settled_for_all(how, names, data)
    check_comparable(names, rewarded=fixed.rewarded is not None)
    examples = _rows_of(data, fixed.columns)
    systems: dict[str, Answers] = {}
    read: dict[str, list[int]] = {}
    for name in names:
        subject, judge = _judge(name, examples, (how, fixed), observe)
        read[name] = _tokens_read(judge)
        _check_same_tokens(read, judge)
        systems[name] = _scored(subject, judge, fixed, observe)
        del subject  # so that two models are never held at once
    table, verdict = measure(
        systems,
        names[-1],
        _common_first(judge.metrics, systems),
        level=fixed.level,
        clusters=clusters_of(judge.questions),
    )
    return {
        "candidate": names[-1],
        "baselines": names[:-1],
        "data": str(data),
        "n": len(judge.questions),
        "unfinished": {name: answers.unfinished for name, answers in systems.items()},
        "metrics": table,
        "verdict": verdict,
    }


def _common_first(metrics: Sequence[str], systems: dict[str, Answers]) -> list[str]:
    """The metrics of the candidate; one that all systems have decides.

    Raises ``ConfigError`` if there is none: a model that writes and one that gives numbers, say.
    """
    common = [name for name in metrics if all(name in a.scores for a in systems.values())]
    if not common:
        raise ConfigError(
            f"{' and '.join(systems)} cannot be compared: they share no metric; compare models that answer"
            " in the same way"
        )
    return [*common, *(name for name in metrics if name not in common)]


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


def _judge(
    name: str, examples: Sequence[Example], asked_for: tuple[Judging, Settled], observe: Observer
) -> tuple[Any, Judge]:
    """The model called ``name``, and the judge over ``examples`` that reads with its tokenizer."""
    given, how = asked_for
    use_all_cores()
    observe(Stage("load model", name))
    loaded = load(name, device=how.device, dtype=how.dtype, weights=how.weights)
    if loaded.ref.adapter is not None:
        fuse(loaded.model)  # the same arithmetic as in training, so the same numbers to the last bit
    for note in loaded.notes:
        observe(Stage("note", note))
    if task := task_asked(how, examples, chosen=bool(given.metrics)):
        loaded, examples, how = for_task(loaded, examples, how, task)
    if how.rewarded is not None:
        return loaded.model, by_rewards(how.rewarded, loaded, examples, how, observe)
    kind = _kind_of(loaded, examples)
    if not given.metrics:  # those of the candidate's run: another kind of model takes what it can of them
        fitting = [m for m in how.metrics if (m in kind.measures if kind else METRICS[m].needs in WRITTEN)]
        how = replace(how, metrics=fitting)
    if kind is None:
        return loaded.model, _evaluator(loaded, examples, how, observe)
    return loaded.model, _judge_of(kind, loaded, examples, how, observe)


def _kind_of(loaded: Loaded, examples: Sequence[Example]) -> JudgeKind | None:
    """How a model is judged that is asked for no answers: one with a head as its head knows, and one that
    writes by judged answers, where the rows hold such. ``None`` for one that is asked."""
    if not loaded.judges:
        return JUDGES["preferences"] if judges_answers(examples[0]) else None
    task = head_called(loaded.model, "score").facts.get("task")
    kind = JUDGES[HEADS[task]] if task in HEADS else None
    if kind is None or kind.of_model is None:
        raise ModelError(f"{loaded.ref.name} has a head for the task {task!r}, which cannot be judged here")
    return kind


def _evaluator(loaded: Loaded, examples: Sequence[Example], how: Settled, observe: Observer) -> Evaluator:
    """The judge of written answers."""
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
    for note in evaluator.renderer.notes:
        observe(Stage("note", note))
    return evaluator


def _judge_of(
    kind: JudgeKind, loaded: Loaded, examples: Sequence[Example], how: Settled, observe: Observer
) -> Judge:
    """The judge of what a head says, or of judged answers."""
    if how.shots or how.shots_from:
        raise ConfigError(f"{loaded.ref.name} is not asked for answers here, so it has no use for examples")
    assert kind.of_model is not None
    rows = drawn(examples, how.rows, how.seed)
    if len(rows) < len(examples):
        _noted(observe)(f"{len(rows)} of {len(examples)} rows are scored, a seeded draw")
    return kind.of_model(loaded, rows, how, observe)


def _scored(model: Any, judge: Judge, how: Settled, observe: Observer) -> Answers:
    observe(Stage("score", f"{len(judge.questions)} rows"))
    answers = judge(model, _shots(judge, how, observe)) if isinstance(judge, Evaluator) else judge(model)
    for sentence in judge.remarks(answers):
        observe(Warned(0, sentence))
    return answers


def _tokens_read(judge: Judge) -> list[int]:
    """Tokens of each reference answer as the model reads it; empty if no metric is per token."""
    if isinstance(judge, PreferenceJudge):
        return judge.tokens_read()
    if not isinstance(judge, Evaluator) or all(METRICS[name].needs != "logprobs" for name in judge.metrics):
        return []
    return [sum(t.trained for t in reading(judge.renderer, q, judge.piece)) for q in judge.questions]


def _check_same_tokens(read: dict[str, list[int]], judge: Judge) -> None:
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
