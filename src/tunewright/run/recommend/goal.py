"""The problem: examples of what good looks like, in two halves; and the test file that nothing may teach."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tunewright.core.errors import DataError
from tunewright.core.hashing import unit_interval
from tunewright.core.records import Conversation, Example, Labelled, Text, kind_of
from tunewright.data.keys import Key, prompt_key, row_key
from tunewright.data.load import read_examples
from tunewright.data.problems import Problem

Family = Literal["chat", "document"]
LEAST = 8  # examples of the problem: both halves need some
FEW = 20  # examples below which intervals are wide
MOST = 200  # examples that are used
WORDS: dict[Family, str] = {"chat": "questions with an answer", "document": "documents"}


@dataclass(frozen=True)
class Goal:
    """Examples of what good looks like, in two halves that share no question.

    Gradients are compared with ``guide``; the race is judged on ``held_out``, which chose nothing. ``spare``
    are more examples than are used; a candidate must not hold them either.
    """

    path: str
    family: Family
    guide: list[Example]
    held_out: list[Example]
    spare: list[Example] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def examples(self) -> list[Example]:
        return [*self.guide, *self.held_out]


def family_of(example: Example) -> Family | None:
    """How the row can be learnt to be written: as an answer, as a document, or not at all."""
    if isinstance(example, Conversation):
        return "chat"
    if isinstance(example, Labelled):
        return "chat" if isinstance(example.label, str) else None
    return "document" if isinstance(example, Text) else None


def read_problem(path: Path, seed: int) -> Goal:
    """The examples of the problem; raises ``DataError`` if there are too few that can be learnt to write."""
    rejected, kinds = 0, Counter[str]()
    usable: dict[Key, Example] = {}
    for item in read_examples(path):
        if isinstance(item, Problem):
            rejected += item.action == "rejected"
            continue
        kinds[kind_of(item)] += 1
        if family_of(item) is not None:
            usable.setdefault(row_key(item), item)
    families = Counter(family_of(example) for example in usable.values())
    family = families.most_common(1)[0][0] if families else None
    examples = [example for example in usable.values() if family_of(example) == family]
    if family is None or len(examples) < LEAST:
        held = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no"
        raise DataError(
            f"{path}: the problem needs {LEAST} or more different rows of one kind, {WORDS['chat']}"
            f" or {WORDS['document']}; it has {held} rows, of which {len(examples)} can be used"
            f" ({rejected} unusable). 20 to 200 examples of what good looks like are best"
        )
    notes = _notes(sum(kinds.values()), len(examples), rejected)
    examples.sort(key=lambda example: unit_interval(seed, "example", row_key(example).hex()))
    return Goal(str(path), family, *_halves(examples[:MOST], seed), examples[MOST:], notes)


def _notes(rows: int, usable: int, rejected: int) -> list[str]:
    notes = []
    if rejected:
        notes.append(f"{rejected} unusable rows of the problem were left out; see `tunewright data check`")
    if rows > usable:
        notes.append(f"{rows - usable} rows of the problem repeat another or are of another kind")
    if usable < FEW:
        notes.append(f"the problem has only {usable} examples: intervals will be wide; give {FEW} or more")
    if usable > MOST:
        notes.append(f"{MOST} of {usable} examples of the problem were used, a seeded draw")
    return notes


def _halves(examples: list[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """Two halves of nearly equal size; rows that ask the same stand in the same one.

    Raises ``DataError`` where all rows ask the same.
    """
    groups: dict[Key, list[Example]] = {}
    for example in examples:
        groups.setdefault(prompt_key(example), []).append(example)
    order = sorted(groups, key=lambda key: unit_interval(seed, "half", key.hex()))
    halves: tuple[list[Example], list[Example]] = ([], [])
    for key in order:
        halves[len(halves[0]) > len(halves[1])].extend(groups[key])
    if len(halves[1]) < 2:
        raise DataError(
            "the examples of the problem all ask the same; give examples with different questions"
        )
    return halves


def read_test(path: Path | None) -> list[Example]:
    """All rows of the test file that can be read; raises ``DataError`` if none can."""
    if path is None:
        return []
    rows = [item for item in read_examples(path) if not isinstance(item, Problem)]
    if not rows:
        raise DataError(f"{path}: no row of the test file can be read; see `tunewright data check {path}`")
    return rows
