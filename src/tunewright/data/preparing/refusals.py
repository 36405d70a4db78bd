"""What stops a preparation: files that do not belong together, a group that no row has, nothing left."""

from __future__ import annotations

from collections import Counter

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.names import nearest
from tunewright.data.preparing.ledger import Ledger
from tunewright.data.preparing.settings import PrepareSettings
from tunewright.data.preparing.store import Store
from tunewright.data.problems import Problem
from tunewright.data.split import SIDES, TRAIN, Side


def refuse_mixtures(store: Store, settings: PrepareSettings) -> None:
    """Raise ``DataError`` for files of different kinds, ``ConfigError`` for a group key that no row has."""
    found: list[tuple[Side, dict[str, dict[str, str]]]] = []
    grouped = 0
    for source, part in store.told():
        found.append((source.side, part.kinds))
        if source.side == "train":
            grouped += part.grouped
    _one_kind(found)
    rows = int((store.sides == TRAIN).sum())
    key = settings.group or (settings.columns or {}).get("group")
    if key and rows and not grouped:
        names = [
            name
            for source, read in zip(store.sources, store.files, strict=True)
            if source.side == "train"
            for name in read.keys
        ]
        raise ConfigError(
            f"group: none of {rows} training rows has {key!r}, so no rows would be kept together by it."
            f" {nearest(key, list(dict.fromkeys(names)))}"
        )


def _one_kind(found: list[tuple[Side, dict[str, dict[str, str]]]]) -> None:
    """One task is learnt from one kind of example; a mixture is a mistake in the list of files."""
    kinds: dict[str, dict[str, str]] = {}
    for _, of_tasks in sorted(found, key=lambda entry: SIDES.index(entry[0])):
        for task, places in of_tasks.items():
            for kind, where in places.items():
                kinds.setdefault(task, {}).setdefault(kind, where)
    for task, places in kinds.items():
        if len(places) > 1:
            listed = ", ".join(f"{kind} ({where})" for kind, where in places.items())
            whose = f"the files of task {task!r}" if task else "the files"
            raise DataError(f"{whose} hold different kinds of rows: {listed}; prepare each kind by itself")


def refuse_nothing_left(ledger: Ledger) -> None:
    """Raise ``DataError`` if no row is left to train on: what befell most of them, and the first of these."""
    store = ledger.store
    if (ledger.left & (store.sides == TRAIN)).any():
        return
    files = {source.path for source in store.sources if source.side == "train"}
    told = f"no row is left to train on: {ledger.rows_in} read, {ledger.count} rejected"
    counts: Counter[str] = Counter()
    first: dict[str, Problem] = {}
    for rejected in ledger.rejected():
        if rejected.source in files:
            counts[rejected.reason] += 1
            first.setdefault(rejected.reason, rejected)
    if not counts:
        raise DataError(f"{told}; the training files hold no row")
    [(reason, count)] = counts.most_common(1)
    problem = first[reason]
    raise DataError(
        f"{told}, {count} for {reason}, the first at {problem.where()}: {problem.detail.rstrip('.')}."
        f" {problem.remedy} See `tunewright data check {problem.source}`"
    )
