"""A run as one of its tasks sees it: the same recipe, model and rows, as if the task were alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunewright.core.events import Event, Warned
from tunewright.core.records import Example
from tunewright.data.pipeline import Prepared
from tunewright.objectives.multi import tasks_of
from tunewright.run.compose import Parts
from tunewright.run.recipe import ObjectiveSection
from tunewright.run.session import Session


def session_of(session: Session, task: str) -> Session:
    """The session with the objective of ``task`` in its recipe; what it warns of begins with the task."""
    plan = session.recipe.objective.options.plans[task]
    section = ObjectiveSection.model_validate({"name": plan.objective, **(plan.model_extra or {})})
    recipe = session.recipe.model_copy(update={"objective": section})

    def observe(event: Event) -> None:
        if isinstance(event, Warned):
            event = replace(event, message=f"task {task}: {event.message}")
        session.observe(event)

    return session.part(replace(session.resolved, recipe=recipe), observe)


def parts_of(parts: Parts, task: str) -> Parts:
    """The parts with the objective of ``task``."""
    return replace(parts, objective=tasks_of(parts.objective)[task])


def rows_of(rows: Sequence[Example], task: str) -> list[Example]:
    """The rows of ``task``, in order."""
    return [row for row in rows if row.meta.task == task]


def splits_of(splits: Prepared, task: str) -> Prepared:
    """The rows of ``task`` on each side; the account of the files stays that of all."""
    return replace(
        splits,
        train=rows_of(splits.train, task),
        validation=rows_of(splits.validation, task),
        test=rows_of(splits.test, task),
    )
