"""Judging several tasks: each by the judge of its own objective, on its own rows.

Metrics are named ``TASK/METRIC``. The first of them decides; every task keeps its own n, its own intervals,
and a verdict of its own beside that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tunewright.core.errors import ConfigError
from tunewright.core.records import Example
from tunewright.evaluate.metrics import split_task
from tunewright.evaluate.runner import Answers, Question
from tunewright.models.score import heads_of_task
from tunewright.objectives.base import Objective
from tunewright.objectives.multi import tasks_of
from tunewright.run.compose import Parts
from tunewright.run.judges import Baseline, Judge, JudgeKind, kind_for
from tunewright.run.session import Session
from tunewright.run.tasks import parts_of, rows_of, session_of

Kinds = Mapping[str, JudgeKind]  # task -> how its result is judged


@dataclass(frozen=True)
class TaskJudge:
    """The judge of each task, the one that decides first; call it with any model."""

    judges: Mapping[str, Judge]

    @property
    def questions(self) -> Sequence[Question]:
        """Those of all tasks, one task after the other."""
        return [question for judge in self.judges.values() for question in judge.questions]

    @property
    def metrics(self) -> Sequence[str]:
        """Those of all tasks, the deciding one first."""
        return [_named(task, name) for task, judge in self.judges.items() for name in judge.metrics]

    def __call__(self, model: Any) -> Answers:
        """What ``model`` says of the rows of each task; a head of the task has then the name it has alone."""
        found = {}
        for task, judge in self.judges.items():
            with heads_of_task(model, task):
                found[task] = judge(model)
        return gathered(found)

    def remarks(self, answers: Answers) -> list[str]:
        """What the judges have to remark on the answers of their tasks."""
        return [
            f"task {task}: {sentence}"
            for task, judge in self.judges.items()
            for sentence in judge.remarks(_alone(answers, task))
        ]


class Measured(NamedTuple):
    """Questions that are measured together, by which metrics, and what the systems answered to them."""

    task: str
    questions: Sequence[Question]
    metrics: Sequence[str]
    systems: dict[str, Answers]


def measured(judge: Judge, systems: Mapping[str, Answers]) -> list[Measured]:
    """Everything together, or where there are tasks the rows of each, with the systems that answered them."""
    if not isinstance(judge, TaskJudge):
        return [Measured("", judge.questions, judge.metrics, dict(systems))]
    return [
        Measured(
            task,
            own.questions,
            [_named(task, name) for name in own.metrics],
            {name: replace(a.parts[task], scores=a.scores) for name, a in systems.items() if task in a.parts},
        )
        for task, own in judge.judges.items()
    ]


def gathered(found: Mapping[str, Answers]) -> Answers:
    """The answers to several tasks as one; the scores have the names of their tasks before theirs."""
    return Answers(
        unfinished=sum(a.unfinished for a in found.values()),
        new_tokens=sum(a.new_tokens for a in found.values()),
        seconds=sum(a.seconds for a in found.values()),
        scores={_named(task, name): rows for task, a in found.items() for name, rows in a.scores.items()},
        parts={task: replace(a, scores={}) for task, a in found.items()},
    )


def bound(objective: Objective) -> JudgeKind:
    """How these tasks are judged."""
    tasks = tasks_of(objective)
    kinds = {task: kind_for(child) for task, child in tasks.items()}

    def suggest(rows: Sequence[Example]) -> tuple[list[str], str]:
        names: list[str] = []
        reasons: list[str] = []
        for task, kind in kinds.items():
            if own := rows_of(rows, task):
                found, reason = kind.suggest(own)
                names += [_named(task, name) for name in kind.refine(found, tasks[task])]
                reasons.append(f"{task}: {reason}")
        return names, ", ".join(reasons)

    every = dict.fromkeys(name for kind in kinds.values() for name in kind.baselines)
    alone = {_named(task, name): task for task, kind in kinds.items() for name in kind.baselines}
    return replace(
        KIND,
        suggest=suggest,
        make=make,
        baselines={
            **{name: _baseline(name, kinds, _askers(name, kinds)) for name in every},
            **{name: _baseline(split_task(name)[1], kinds, [task]) for name, task in alone.items()},
        },
        usual=tuple(dict.fromkeys(name for kind in kinds.values() for name in kind.usual)),
        calibrate=_calibrate if any(kind.calibrate for kind in kinds.values()) else None,
    )


def make(session: Session, parts: Parts, rows: Sequence[Example], metrics: Sequence[str]) -> TaskJudge:
    """The judges of the tasks that ``metrics`` name.

    Raises ``ConfigError`` for a task that has no row here.
    """
    names: dict[str, list[str]] = {}
    for name in metrics:
        task, metric = split_task(name)
        names.setdefault(task, []).append(metric)
    judges: dict[str, Judge] = {}
    for task, own in names.items():
        asked = rows_of(rows, task)
        if not asked:
            raise ConfigError(
                f"{own[0]} of the task {task!r} cannot be measured: none of {len(rows)} held-out rows is of"
                " this task; leave it out of evaluate.metrics, or hold more rows out (data.split)"
            )
        child = parts_of(parts, task)
        judges[task] = kind_for(child.objective).make(session_of(session, task), child, asked, own)
    judging = list(metrics) == session.recipe.evaluate.metrics  # and not watching one of them
    for task in tasks_of(parts.objective):
        if judging and task not in judges:
            session.warn(f"task {task}: nothing is measured; it has no held-out rows, or no metric names it")
    return TaskJudge(judges)


def _askers(name: str, kinds: Kinds) -> list[str]:
    """The tasks that are compared with ``name``: those for which it is usual, else all that know it."""
    usual = [task for task, kind in kinds.items() if name in kind.usual]
    return usual or [task for task, kind in kinds.items() if name in kind.baselines]


def _baseline(name: str, kinds: Kinds, askers: Sequence[str]) -> Baseline:
    def ready(
        session: Session, parts: Parts, judge: TaskJudge, train: Sequence[Example]
    ) -> Callable[[], Answers]:
        scorers = {
            task: kinds[task].baselines[name](
                _asking(session_of(session, task), kinds[task]),
                parts_of(parts, task),
                judge.judges[task],
                rows_of(train, task),
            )
            for task in askers
            if task in judge.judges
        }
        return lambda: gathered({task: score() for task, score in scorers.items()})

    return ready


def _asking(session: Session, kind: JudgeKind) -> Session:
    """The session of a task that does not write: how long a written label may be is not what ``auto`` found
    for those that do."""
    if kind.writes or not session.resolved.sources["evaluate.max_new_tokens"].startswith("auto"):
        return session
    evaluate = session.recipe.evaluate.model_copy(update={"max_new_tokens": "auto"})
    recipe = session.recipe.model_copy(update={"evaluate": evaluate})
    return session.part(replace(session.resolved, recipe=recipe), session.observe)


def _calibrate(session: Session, parts: Parts, rows: Sequence[Example], model: Any) -> None:
    for task in tasks_of(parts.objective):
        own, child = rows_of(rows, task), parts_of(parts, task)
        calibrate = kind_for(child.objective).calibrate
        if calibrate is not None and own:
            with heads_of_task(model, task):
                calibrate(session_of(session, task), child, own, model)


def _named(task: str, name: str) -> str:
    return f"{task}/{name}"


def _alone(answers: Answers, task: str) -> Answers:
    """The answers to one task with the scores by the names they have alone."""
    own = {split_task(name)[1]: rows for name, rows in answers.scores.items() if split_task(name)[0] == task}
    return replace(answers.parts[task], scores=own)


def _unbound(rows: Sequence[Example]) -> tuple[list[str], str]:
    raise AssertionError("tasks are judged by the kind for their objective: judges.kind_for")


KIND = JudgeKind(_unbound, make, {}, (), bound=bound)
