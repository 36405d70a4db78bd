"""The rows of a run: prepared once from the recipe's files, read back from the run directory ever after."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tunewright.core.errors import RunError
from tunewright.core.hashing import file_digest
from tunewright.core.paths import RunDir
from tunewright.data.check import check
from tunewright.data.pipeline import Prepared, PrepareSettings, SplitSettings, prepare, read_prepared
from tunewright.data.problems import Problem
from tunewright.data.split import SIDES
from tunewright.run.mixing import with_mixed_in
from tunewright.run.recipe import Recipe
from tunewright.run.task_files import files_of


def prepare_rows(recipe: Recipe) -> Prepared:
    """Read, check, deduplicate and split what the recipe names, and mix in; rows of all tasks together."""
    data, files = recipe.data, files_of(recipe)
    own = data.split
    shares = SplitSettings(validation=own.validation, test=own.test, seed=recipe.train.seed, time=own.time)
    settings = PrepareSettings(
        columns=files.columns,
        group=data.split.group,
        split=shares,
        clean=data.prepare.clean,
        redact=data.prepare.redact,
        decisions=data.prepare.decisions,
        compare=data.prepare.compare,
        tasks=files.tasks,
        task_columns=files.task_columns,
    )
    train, validation, test = (files.sides[side] for side in SIDES)
    return with_mixed_in(recipe, prepare(train, validation, test, settings))


def suspicions(recipe: Recipe) -> list[str]:
    """What ``data check`` finds in the training files and in those that are mixed in, a sentence each.

    Duplicates are dropped anyway.
    """
    return _of_training(recipe) + [
        f"{name}: {sentence}"
        for name, source in (recipe.data.mix or {}).items()
        for sentence in _found([Path(name)], source.columns, None)
    ]


def _of_training(recipe: Recipe) -> list[str]:
    files = files_of(recipe)
    groups: dict[str, list[Path]] = {}
    for path in files.sides["train"]:
        groups.setdefault(files.tasks.get(str(path), ""), []).append(path)
    return [
        f"{f'task {task}: ' if task else ''}{sentence}"
        for task, paths in groups.items()
        for sentence in _found(paths, files.task_columns.get(task, files.columns), recipe.data.split.group)
    ]


def _found(paths: list[Path], columns: dict[str, str] | None, group: str | None) -> list[str]:
    return [
        f"{f.count} x {f.what}" + (f", first at {f.places[0]}" if f.places else "") + f". {f.advice}"
        for f in check(paths, columns=columns, group=group).findings
        if f.code != "duplicate"
    ]


def stored_rows(run: RunDir) -> Prepared:
    """The rows that ``prepare`` wrote; raises ``RunError`` if a file changed since."""
    receipt_file = run.data / "receipt.json"
    if not receipt_file.exists():
        raise RunError(
            f"{run.root} has no data/receipt.json: it stopped before its data were ready; remove it and start"
            " again"
        )
    receipt = json.loads(receipt_file.read_text(encoding="utf-8"))
    for side in SIDES:
        path = run.data / f"{side}.jsonl"
        if not path.exists() or file_digest(path) != receipt["splits"][side]["sha256"]:
            raise RunError(f"{path} is not the file that this run was begun with; restore it or start again")
    return read_prepared(run.data, receipt)


def reasons(rejected: Sequence[Problem]) -> dict[str, int]:
    """How many rows were left out, by reason, most frequent first."""
    return dict(Counter(p.reason for p in rejected).most_common())
