"""Rows that only ever train: nothing that validation or test rows ask may stand among them.

Synthetic rows and rows that are mixed in are held to this. The real rows are divided as if the others were
not there, so the same rows judge a model whatever it was taught besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tunewright.core.records import Example
from tunewright.data.keys import Key, row_key
from tunewright.data.problems import Problem, problem
from tunewright.data.split_table import keys_of

RowKey = tuple[str | None, Key]


def kept_apart(
    rows: Iterable[Example], validation: Sequence[Example], test: Sequence[Example]
) -> tuple[list[Example], list[Problem]]:
    """The rows that share no group, prompt or text with a judging row; and a ``Problem`` for each other."""
    judging: dict[tuple[str, Key], tuple[str, str]] = {}
    for reason, side in (("in_test", test), ("in_validation", validation)):
        for example in side:
            for key in keys_of(example):
                judging.setdefault(key, (reason, example.meta.where()))
    kept: list[Example] = []
    dropped: list[Problem] = []
    for example in rows:
        met = [judging[key] for key in keys_of(example) if key in judging]
        if not met:
            kept.append(example)
            continue
        reason, where = min(met, key=lambda found: found[0] != "in_test")
        place = example.meta.source, example.meta.line
        dropped.append(problem(*place, reason, f"shares a group with {where}"))
    return kept, dropped


def not_yet_there(rows: Iterable[Example], seen: dict[RowKey, str]) -> tuple[list[Example], list[Problem]]:
    """The rows that equal no row in ``seen``, which is added to; and a ``Problem`` for each other."""
    kept: list[Example] = []
    dropped: list[Problem] = []
    for example in rows:
        key = key_in_task(example)
        if key in seen:
            place = example.meta.source, example.meta.line
            dropped.append(problem(*place, "duplicate", f"equal to {seen[key]}"))
        else:
            seen[key] = example.meta.where()
            kept.append(example)
    return kept, dropped


def key_in_task(example: Example) -> RowKey:
    """Equal for rows of one task that are duplicates of each other."""
    return example.meta.task, row_key(example)
