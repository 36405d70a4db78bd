"""From files to the three lists a run uses, and to the receipt that accounts for every row.

    prepared = prepare(["tickets.jsonl"], [], [], PrepareSettings())
    write(prepared, run_directory.data)

Steps: read, drop exact duplicates, keep what stands in given test and validation files out of train, split.
Synthetic rows are set aside meanwhile and join train in the end, but for those that ask what is judged.
Nothing depends on the clock or on chance: the same files and settings give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field, model_validator

from tunewright.core.config import Section
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.names import nearest
from tunewright.core.paths import write_json, written_atomically
from tunewright.core.records import Example, kind_of
from tunewright.data.apart import brought_back, set_aside
from tunewright.data.canonical import to_jsonl
from tunewright.data.keys import row_key
from tunewright.data.load import Loaded, load
from tunewright.data.problems import RULES, Problem, problem
from tunewright.data.split import SIDES, Side, groups_of, leaks, split

WHOLE_FILE = ("bom", "crlf", "blank_lines", "ignored_keys", "no_group")
Parts = dict[Side, list[Example]]


class SplitSettings(Section):
    """How rows are divided where no file of its own is given."""

    validation: float = Field(default=0.1, ge=0, lt=1, description="Share of groups that watch training.")
    test: float = Field(default=0.1, ge=0, lt=1, description="Share of groups that judge the result.")
    seed: int = Field(default=0, description="Seed of the hash that decides the side of each group.")
    stratify: bool = Field(default=True, description="Deal each class out by its shares.")

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> SplitSettings:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")
        return self


class PrepareSettings(Section):
    """How files are read and divided."""

    columns: dict[str, str] | None = Field(None, description="Target -> column, dotted path or template.")
    format: str | None = Field(default=None, description="Format, instead of recognising it.")
    group: str | None = Field(default=None, description="Key whose rows must stay on one side of the split.")
    split: SplitSettings = SplitSettings()
    tasks: dict[str, str] = Field({}, description="File -> task; empty where all rows are for one thing.")
    task_columns: dict[str, dict[str, str]] = Field(
        {}, description="Task -> columns, where its files have others than ``columns`` says."
    )


@dataclass(frozen=True, slots=True)
class Prepared:
    """The three lists, the rows that were left out, and the account of it all."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    rejected: list[Problem]
    receipt: dict[str, Any] = field(default_factory=dict)


def prepare(
    train_paths: Sequence[str | Path],
    validation_paths: Sequence[str | Path],
    test_paths: Sequence[str | Path],
    settings: PrepareSettings,
) -> Prepared:
    """Read, reject, drop exact duplicates, separate and split; see ``docs/data.md`` for the guarantees.

    Rows of different tasks may differ in kind and are never duplicates of each other, but what they ask
    stands on one side of the split, whatever their task.

    Raises ``DataError`` if a file cannot be read, files differ in kind, or nothing is left to train on, and
    ``ConfigError`` if no training row has the group key.
    """
    given: dict[Side, Sequence[str | Path]] = {
        "train": train_paths,
        "validation": validation_paths,
        "test": test_paths,
    }
    loaded = {side: _load(paths, settings) for side, paths in given.items()}
    parts: Parts = {side: loaded[side].examples for side in SIDES}
    _one_kind(parts)
    _grouped(loaded["train"], settings)
    rejected = [p for side in SIDES for p in loaded[side].rejected]
    rows_in = sum(f.rows for data in loaded.values() for f in data.files)
    steps = [_step("read", rows_in, rejected)]
    parts, made, unfit = set_aside(parts)

    for name, action in (("duplicates", _without_duplicates), ("separate", _separated)):
        before = sum(map(len, parts.values()))
        parts, dropped = action(parts)
        steps.append(_step(name, before, dropped))
        rejected += dropped
    if not (parts["train"] or made):
        raise DataError(_nothing_left(rows_in, rejected, {f.path for f in loaded["train"].files}))
    parts, notes = _divided(parts, given, settings.split)
    if made or unfit:
        parts, dropped = brought_back(parts, made)
        steps.append(_step("synthetic", len(made) + len(unfit), [*unfit, *dropped]))
        rejected += [*unfit, *dropped]

    rows_out = sum(map(len, parts.values()))
    assert rows_in == rows_out + len(rejected), f"{rows_in} rows in, {rows_out} out, {len(rejected)} rejected"
    receipt = {
        "rows_in": rows_in,
        "rows_out": rows_out,
        "rejected": len(rejected),
        "kind": " and ".join(dict.fromkeys(kind_of(example) for example in parts["train"])),
        "steps": steps,
        "repaired": _counts([p for d in loaded.values() for p in d.problems if p.action == "repaired"]),
        "splits": {side: _described(parts[side]) for side in SIDES},
        **({"tasks": _by_task(parts)} if settings.tasks else {}),
        "notes": notes + _changes([p for d in loaded.values() for p in d.problems]),
        "settings": settings.model_dump(),
        "files": [{"used_for": side, **asdict(facts)} for side in SIDES for facts in loaded[side].files],
    }
    return Prepared(parts["train"], parts["validation"], parts["test"], rejected, receipt)


def write(prepared: Prepared, directory: str | Path) -> None:
    """Write train, validation, test and rejected ``.jsonl`` and, last, ``receipt.json``; each atomically."""
    directory = Path(directory)
    for side in SIDES:
        _write_bytes(directory / f"{side}.jsonl", to_jsonl(getattr(prepared, side)))
    lines = [orjson.dumps(_rejection(p)) + b"\n" for p in prepared.rejected]
    _write_bytes(directory / "rejected.jsonl", b"".join(lines))
    write_json(directory / "receipt.json", prepared.receipt)


def _rejection(p: Problem) -> dict[str, Any]:
    return {"source": p.source, "line": p.line, "reason": p.reason, "detail": p.detail}


def _load(paths: Sequence[str | Path], settings: PrepareSettings) -> Loaded:
    """All files of one side; a row's task is that of the file it was read from."""
    whole = Loaded([], [], [])
    for path in paths:
        task = settings.tasks.get(str(path))
        columns = settings.task_columns.get(task or "", settings.columns)
        data = load([path], columns=columns, format=settings.format, group=settings.group)
        whole.examples.extend(_of_task(example, task) for example in data.examples)
        whole.problems.extend(data.problems)
        whole.files.extend(data.files)
        whole.keys.update(data.keys)
    return whole


def _of_task(example: Example, task: str | None) -> Example:
    return example if example.meta.task == task else replace(example, meta=replace(example.meta, task=task))


def _one_kind(parts: Parts) -> None:
    """One task is learnt from one kind of example; a mixture is a mistake in the list of files."""
    first: dict[str | None, dict[str, str]] = {}
    for side in SIDES:
        for example in parts[side]:
            first.setdefault(example.meta.task, {}).setdefault(kind_of(example), example.meta.where())
    for task, kinds in first.items():
        if len(kinds) > 1:
            found = ", ".join(f"{kind} ({where})" for kind, where in kinds.items())
            whose = f"the files of task {task!r}" if task else "the files"
            raise DataError(f"{whose} hold different kinds of rows: {found}; prepare each kind by itself")


def _grouped(train: Loaded, settings: PrepareSettings) -> None:
    """Refuse a group key that no training row has: it would protect nothing, and nobody would notice."""
    key = settings.group or (settings.columns or {}).get("group")
    if key and train.examples and all(example.meta.group is None for example in train.examples):
        raise ConfigError(
            f"group: none of {len(train.examples)} training rows has {key!r}, so no rows would be kept"
            f" together by it. {nearest(key, list(train.keys))}"
        )


def _nothing_left(rows_in: int, rejected: Sequence[Problem], train: set[str]) -> str:
    """Why no row is left: what befell most of the training rows, and the first of these."""
    told = f"no row is left to train on: {rows_in} read, {len(rejected)} rejected"
    lost = [p for p in rejected if p.source in train]
    if not lost:
        return f"{told}; the training files hold no row"
    [(reason, count)] = Counter(p.reason for p in lost).most_common(1)
    first = next(p for p in lost if p.reason == reason)
    return (
        f"{told}, {count} for {reason}, the first at {first.where()}: {first.detail.rstrip('.')}."
        f" {first.remedy} See `tunewright data check {first.source}`"
    )


def _changes(problems: Sequence[Problem]) -> list[str]:
    """What was repaired or noted, as sentences: rows are counted; facts about a file come as they are."""
    changed = {(p.reason, p.where()) for p in problems if p.action != "rejected"}
    rows = sorted(Counter(reason for reason, _ in changed if reason not in WHOLE_FILE).items())
    notes = [f"{count} row(s) repaired ({reason}): {RULES[reason].what}" for reason, count in rows]
    notes += [
        f"{p.source}: {RULES[p.reason].what} ({p.reason}): {p.detail}"
        for p in problems
        if p.action != "rejected" and p.reason in WHOLE_FILE
    ]
    return notes


def _without_duplicates(parts: Parts) -> tuple[Parts, list[Problem]]:
    """Drop rows of a task that are equal but for white space within a part; the first is kept."""
    kept: Parts = {side: [] for side in SIDES}
    dropped = []
    for side in SIDES:
        seen: dict[tuple[str | None, bytes], str] = {}
        for example in parts[side]:
            key = example.meta.task, row_key(example)
            if key in seen:
                dropped.append(problem(*_place(example), "duplicate", f"equal to {seen[key]}"))
            else:
                seen[key] = example.meta.where()
                kept[side].append(example)
    return kept, dropped


def _separated(parts: Parts) -> tuple[Parts, list[Problem]]:
    """Drop what shares a group with test from train and validation, and with validation from train."""
    rows = [(side, example) for side in reversed(SIDES) for example in parts[side]]
    leaders = groups_of([example for _, example in rows])
    kept: Parts = {side: [] for side in SIDES}
    dropped = []
    for (side, example), leader in zip(rows, leaders, strict=True):
        home, first = rows[leader]
        if home == side:
            kept[side].append(example)
        else:
            reason = "in_test" if home == "test" else "in_validation"
            dropped.append(problem(*_place(example), reason, f"shares a group with {first.meta.where()}"))
    return kept, dropped


def _divided(
    parts: Parts, given: dict[Side, Sequence[str | Path]], settings: SplitSettings
) -> tuple[Parts, list[str]]:
    """Split off from train what no file was given for."""
    notes = [
        f"{side}: the share {getattr(settings, side)} was not used, because files were given"
        for side in SIDES[1:]
        if given[side] and getattr(settings, side)
    ]
    notes += [
        f"{side}: files were given, but none of their rows is left"
        for side in SIDES[1:]
        if given[side] and not parts[side]
    ]
    if not parts["train"]:
        notes.append("no row of train is real, so none was split off; judge on real rows of your own")
    validation = 0.0 if given["validation"] else settings.validation
    test = 0.0 if given["test"] else settings.test
    result = split(
        parts["train"], validation=validation, test=test, seed=settings.seed, stratify=settings.stratify
    )
    assert not (found := leaks(result)), f"the split leaks: {found[:3]}"
    divided: Parts = {
        "train": result.train,
        "validation": parts["validation"] or result.validation,
        "test": parts["test"] or result.test,
    }
    return divided, notes + list(result.notes)


def _place(example: Example) -> tuple[str, int]:
    return example.meta.source, example.meta.line


def _counts(problems: Sequence[Problem]) -> dict[str, int]:
    return dict(sorted(Counter(p.reason for p in problems).items()))


def _step(name: str, rows: int, dropped: Sequence[Problem]) -> dict[str, Any]:
    return {"step": name, "in": rows, "out": rows - len(dropped), "rejected": _counts(dropped)}


def _described(examples: Sequence[Example]) -> dict[str, Any]:
    return {"rows": len(examples), "sha256": hashlib.sha256(to_jsonl(examples)).hexdigest()}


def _by_task(parts: Parts) -> dict[str, dict[str, int]]:
    """Rows of each side, by task."""
    counts = {side: Counter(str(example.meta.task) for example in parts[side]) for side in SIDES}
    return {
        task: {side: counts[side][task] for side in SIDES} for task in sorted(set().union(*counts.values()))
    }


def _write_bytes(path: Path, content: bytes) -> None:
    with written_atomically(path) as temporary:
        temporary.write_bytes(content)
