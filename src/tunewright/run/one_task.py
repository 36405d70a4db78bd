"""A model that learnt several tasks, judged on one of them: by its metrics, on its rows, with its head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunewright.core.errors import ConfigError
from tunewright.core.records import Example
from tunewright.evaluate.metrics import split_task
from tunewright.models.load import Loaded
from tunewright.models.score import heads_of, take_heads_of
from tunewright.run.judging import Settled
from tunewright.run.tasks import rows_of


def task_asked(how: Settled, examples: Sequence[Example], *, chosen: bool) -> str:
    """The one task that is judged; empty where no metric names any.

    The metrics say it where they were ``chosen`` for this, else the rows do, if they were prepared by a run.
    Raises ``ConfigError`` where it is not one.
    """
    tasks = list(dict.fromkeys(task for task, _ in map(split_task, how.metrics) if task))
    if not chosen and len(tasks) > 1:
        present = {example.meta.task for example in examples}
        tasks = [task for task in tasks if task in present] or tasks
    if len(tasks) > 1:
        names = " or ".join(
            f"--metric {next(m for m in how.metrics if m.startswith(f'{t}/'))}" for t in tasks
        )
        raise ConfigError(f"the model learnt several tasks; say which one these rows are for: {names}")
    return tasks[0] if tasks else ""


def as_asked(name: str, asked: Sequence[str] | None) -> str:
    """The metric ``name`` of the one task that is judged, with its task before it if it was ``asked`` so."""
    return next((metric for metric in asked or () if split_task(metric)[1] == name), name)


def for_task(
    loaded: Loaded, examples: Sequence[Example], how: Settled, task: str
) -> tuple[Loaded, list[Example], Settled]:
    """Model, rows and settings of ``task``; rows that are marked for another task are left out."""
    mine = rows_of(examples, task) if any(example.meta.task for example in examples) else list(examples)
    if not mine:
        raise ConfigError(f"none of {len(examples)} rows is of the task {task!r}")
    names = [metric for own, metric in map(split_task, how.metrics) if own in ("", task)]
    take_heads_of(loaded.model, task)
    judges = "score" in heads_of(loaded.model)
    return replace(loaded, judges=judges or loaded.judges), mine, replace(how, metrics=names)
