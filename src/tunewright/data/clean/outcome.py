"""What cleaning says about a row: it stays, perhaps changed, or it goes, and for which reason."""

from __future__ import annotations

from dataclasses import dataclass

from tunewright.core.records import Example
from tunewright.data.problems import RULES, Action, Problem

Change = tuple[str, str]
"""``(reason, detail)``: a code of ``RULES``, and which part of the row in which words; never its text."""


@dataclass(frozen=True, slots=True)
class Keep:
    """The row stays. ``changes`` were made to it; ``notes`` are what was seen and left as it is."""

    example: Example
    changes: tuple[Change, ...] = ()
    notes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Drop:
    """The row goes."""

    reason: str
    detail: str


Outcome = Keep | Drop


def problems_of(example: Example, outcome: Outcome) -> list[Problem]:
    """The outcome as lines of the report: each change is repaired, each note noted, a drop rejected."""
    if isinstance(outcome, Drop):
        return [_problem(example, "rejected", outcome.reason, outcome.detail)]
    repaired = [_problem(example, "repaired", *change) for change in outcome.changes]
    return repaired + [_problem(example, "noted", *note) for note in outcome.notes]


def _problem(example: Example, action: Action, reason: str, detail: str) -> Problem:
    """Unlike ``problem`` with the action that was taken: settings may differ from what ``RULES`` says."""
    meta = example.meta
    return Problem(meta.source, meta.line, reason, detail, RULES[reason].remedy, action)
