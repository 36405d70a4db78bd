"""Rows that only ever train: nothing that validation or test rows ask may stand among them.

Synthetic rows and rows that are mixed in are held to this. The real rows are divided as if the others were
not there, so the same rows judge a model whatever it was taught besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tunewright.core.records import Example
from tunewright.data.keys import Key
from tunewright.data.problems import Problem, problem
from tunewright.data.split import keys_of


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


def real_and_synthetic(rows: Iterable[Example]) -> tuple[list[Example], list[Example]]:
    """The rows that people wrote, and those that are marked as written by a model; each in order."""
    real: list[Example] = []
    synthetic: list[Example] = []
    for example in rows:
        (synthetic if example.meta.synthetic else real).append(example)
    return real, synthetic
