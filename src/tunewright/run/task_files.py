"""Which files belong to which task, as the recipe says it, with every way in which that can be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tunewright.core.errors import ConfigError
from tunewright.core.names import nearest
from tunewright.data.split import SIDES
from tunewright.run.recipe import DataSection, Files, Recipe

Columns = dict[str, str]


class TaskFiles(NamedTuple):
    """The files of each side in order, the task of each file, and columns for all files or of each task.

    ``tasks`` is empty where all rows are for one thing.
    """

    sides: dict[str, list[Path]]
    tasks: dict[str, str]
    columns: Columns | None
    task_columns: dict[str, Columns]


def files_of(recipe: Recipe) -> TaskFiles:
    """What the section ``data`` names. Raises ``ConfigError`` where it does not fit the objective."""
    data = recipe.data
    known = list(recipe.objective.options.tasks) if recipe.objective.name == "multi" else []
    sides: dict[str, list[Path]] = {}
    tasks: dict[str, str] = {}
    for side in SIDES:
        given: Files | dict[str, Files] | None = getattr(data, side)
        _check_form(side, given, known, recipe.objective.name)
        sides[side] = [path for _, path in _named(given)]
        for task, path in _named(given):
            if task:
                _claim(tasks, task, path)
    columns, task_columns = _columns(data, known)
    return TaskFiles(sides, tasks, columns, task_columns)


def train_files(recipe: Recipe) -> str:
    """The training files as one line of text, joined by commas."""
    return ", ".join(str(path) for _, path in _named(recipe.data.train))


def _named(given: Files | dict[str, Files] | None) -> Iterator[tuple[str, Path]]:
    """(task, file); the task is empty where none is named."""
    groups = given if isinstance(given, dict) else {"": given or []}
    for task, files in groups.items():
        for file in [files] if isinstance(files, str) else files:
            yield task, Path(file)


def _check_form(side: str, given: Files | dict[str, Files] | None, known: list[str], objective: str) -> None:
    if not known:
        if isinstance(given, dict):
            raise ConfigError(
                f"data.{side} names files by task, but objective {objective!r} is for one; give a file or a"
                " list, or use objective multi"
            )
        return
    if given is None:
        return
    if not isinstance(given, dict):
        raise ConfigError(
            f"objective multi needs data.{side} by task: {{{', '.join(f'{task}: FILE' for task in known)}}}"
        )
    for task in given:
        if task not in known:
            raise ConfigError(
                f"data.{side} has files for {task!r}, which objective.tasks does not name."
                f" {nearest(task, known)}"
            )
    if missing := [task for task in known if task not in given]:
        raise ConfigError(f"data.{side} has no file for the task {missing[0]!r} of objective.tasks")


def _claim(tasks: dict[str, str], task: str, path: Path) -> None:
    """Note that the rows of ``path`` are for ``task``."""
    for other, owner in tasks.items():
        if owner != task and Path(other).absolute() == path.absolute():
            raise ConfigError(
                f"{path} is named for two tasks, {owner!r} and {task!r}; a row is for one: copy the file if"
                " both are to learn from it"
            )
    tasks[str(path)] = task


def _columns(data: DataSection, known: list[str]) -> tuple[Columns | None, dict[str, Columns]]:
    given = data.columns or {}
    by_task = {task: value for task, value in given.items() if isinstance(value, dict)}
    shared = {name: value for name, value in given.items() if isinstance(value, str)}
    if by_task and shared:
        raise ConfigError(
            f"data.columns mixes a mapping for the task {next(iter(by_task))!r} with {next(iter(shared))!r}"
            " for all; give one for each task, or one for all"
        )
    for task in by_task:
        if task not in known:
            near = nearest(task, known) if known else "Only objective multi has tasks."
            raise ConfigError(f"data.columns has a mapping for {task!r}, which is no task. {near}")
    return shared or None, by_task
