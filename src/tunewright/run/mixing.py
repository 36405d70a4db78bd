"""The files of ``data.mix``, read and put beside the prepared training rows, with their account."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tunewright.core.errors import ConfigError
from tunewright.core.names import nearest
from tunewright.core.records import Example
from tunewright.data.canonical import to_jsonl
from tunewright.data.load import Loaded, load
from tunewright.data.mix import Portion, Sides, Source, portions, shares
from tunewright.data.near import near_rows
from tunewright.data.pipeline import Prepared
from tunewright.run.recipe import MixSection, Recipe
from tunewright.run.task_files import files_of

MAIN = "main"  # the name of the rows of data.train beside the files that are mixed in


def with_mixed_in(recipe: Recipe, prepared: Prepared) -> Prepared:
    """``prepared`` with the rows of ``data.mix`` behind the training rows; the same object without any.

    The other sides stay as they are. Raises ``DataError`` for a file that cannot be read or holds rows of
    another kind, ``ConfigError`` for a source that does not fit the tasks of the run.
    """
    wanted = recipe.data.mix
    if not wanted:
        return prepared
    _check(recipe, wanted)
    main = Sides(prepared.train, prepared.validation, prepared.test)
    read = {name: _read(name, source, recipe.data.split.group) for name, source in wanted.items()}
    sources = [
        Source(name, _of_task(read[name].examples, source.task), source.weight, source.cap, source.repeat)
        for name, source in wanted.items()
    ]
    taken = portions(main, sources, recipe.train.seed, near_rows)
    train = [*prepared.train, *(row for portion in taken for row in portion.rows)]
    unreadable = [p for loaded in read.values() for p in loaded.rejected]
    rejected = [*prepared.rejected, *unreadable, *(p for portion in taken for p in portion.dropped)]
    whole = replace(prepared, train=train, rejected=rejected)
    return replace(whole, receipt=_receipt(prepared, whole, taken, read))


def _read(name: str, source: MixSection, group: str | None) -> Loaded:
    """A file by its own columns; its rows have the groups of the main data if it has their key."""
    loaded = load([Path(name)], columns=source.columns)
    first = (group or "").split(".")[0]
    if first in loaded.keys:
        return load([Path(name)], columns=source.columns, group=group)
    return loaded


def _of_task(rows: list[Example], task: str | None) -> list[Example]:
    return [replace(row, meta=replace(row.meta, task=task)) for row in rows] if task else rows


def _check(recipe: Recipe, wanted: dict[str, MixSection]) -> None:
    files = files_of(recipe)
    known = sorted(set(files.tasks.values()))
    named = {path.absolute() for side in files.sides.values() for path in side}
    for name, source in wanted.items():
        if Path(name).absolute() in named:
            raise ConfigError(f"data.mix: {name} is one of the main files; name it in one place")
        if source.task and source.task not in known:
            near = nearest(source.task, known) if known else "Only objective multi has tasks."
            raise ConfigError(f"data.mix: {name} is for {source.task!r}, which is no task. {near}")
        if known and not source.task:
            raise ConfigError(f"data.mix: say with task which one {name} is for: {' or '.join(known)}")


def _receipt(
    before: Prepared, after: Prepared, taken: list[Portion], read: dict[str, Loaded]
) -> dict[str, Any]:
    """The account of all rows: those read and not taken stand in ``mix``, rows taken twice count twice."""
    old = before.receipt
    rows_in = sum(facts.rows for loaded in read.values() for facts in loaded.files)
    rows_out = sum(len(portion.rows) for portion in taken)
    dropped = after.rejected[len(before.rejected) :]
    parts = {MAIN: before.train, **{portion.source.name: portion.rows for portion in taken}}
    found = shares(parts)
    sources = [{**found[p.source.name], **_account(p, read[p.source.name])} for p in taken]
    step = {
        "step": "mix",
        "in": rows_in,
        "out": rows_out,
        "rejected": dict(sorted(Counter(p.reason for p in dropped).items())),
        "not_taken": sum(p.candidates - p.distinct for p in taken),
        "repeated": sum(len(p.rows) - p.distinct for p in taken),
    }
    content = hashlib.sha256(to_jsonl(after.train)).hexdigest()
    return {
        **old,
        "rows_in": old["rows_in"] + rows_in,
        "rows_out": old["rows_out"] + rows_out,
        "rejected": len(after.rejected),
        "steps": [*old["steps"], step],
        "splits": {**old["splits"], "train": {"rows": len(after.train), "sha256": content}},
        **_tasks(old, taken),
        "mix": {MAIN: found[MAIN], "sources": sources},
        "notes": [*old["notes"], *_notes(taken, found)],
        "files": [
            *old["files"],
            *({"used_for": "mix", **asdict(facts)} for loaded in read.values() for facts in loaded.files),
        ],
    }


def _account(portion: Portion, read: Loaded) -> dict[str, Any]:
    source = portion.source
    return {
        "source": source.name,
        "weight": source.weight,
        "wanted": portion.wanted,
        "cap": source.cap,
        "repeat": source.repeat,
        "read": sum(facts.rows for facts in read.files),
        "rejected": len(read.rejected) + len(portion.dropped),
        "candidates": portion.candidates,
        "distinct": portion.distinct,
        "synthetic": sum(row.meta.synthetic is not None for row in portion.rows),
    }


def _tasks(old: dict[str, Any], taken: list[Portion]) -> dict[str, Any]:
    """The counts by task, where the receipt has them, with the rows that came in."""
    if "tasks" not in old:
        return {}
    more = Counter(row.meta.task for portion in taken for row in portion.rows)
    return {
        "tasks": {
            task: {**sides, "train": sides["train"] + more[task]} for task, sides in old["tasks"].items()
        }
    }


def _notes(taken: list[Portion], found: dict[str, dict[str, float]]) -> list[str]:
    """What each source came to, and why it fell short where it did."""
    return [_note(portion, found[portion.source.name]["share"]) for portion in taken]


def _note(portion: Portion, share: float) -> str:
    source, count = portion.source, len(portion.rows)
    told = f"{source.name}: {count} rows mixed in, {share:.1%} of the training rows"
    if count > portion.distinct:
        told += f", {portion.distinct} different ones"
    if count >= portion.wanted:
        return told
    told += f"; its weight {source.weight:g} asks for {portion.wanted}"
    if source.cap is not None and count == source.cap:
        return f"{told}, its cap is {source.cap}"
    return f"{told}, but it has {portion.candidates} usable rows and repeat is {source.repeat}"
