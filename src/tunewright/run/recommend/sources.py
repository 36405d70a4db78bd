"""The problem, the candidates and the test file: what is read of them, and what is left out and why.

Candidates are streamed: of any number of rows only a seeded draw of ``POOL`` is kept in memory.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tunewright.core.errors import ConfigError, DataError, TunewrightError
from tunewright.core.hashing import unit_interval
from tunewright.core.records import Conversation, Example, Labelled, Text, kind_of
from tunewright.data.keys import Key, earlier_prompt_keys, prompt_key, row_key
from tunewright.data.load import read_examples
from tunewright.data.problems import Problem
from tunewright.run.recommend.licence import Licence, licences_of

Family = Literal["chat", "document"]
POOL = 2000  # rows of a candidate that are kept
LEAST = 4  # usable rows below which nothing can be said of a data set
LEAST_PROBLEM = 8  # examples of the problem: both halves need some
FEW = 20  # examples of the problem below which intervals are wide
PREPARED = "train.jsonl"
WORDS = {"chat": "questions with an answer", "document": "documents"}


@dataclass(frozen=True)
class Known:
    """What a candidate must not teach: whole rows and the questions of rows."""

    rows: frozenset[Key] = frozenset()
    prompts: frozenset[Key] = frozenset()

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Known:
        """The keys of ``examples``, the earlier questions of a conversation among them."""
        listed = list(examples)
        return cls(frozenset(map(row_key, listed)), frozenset(k for e in listed for k in _prompts(e)))

    def meets(self, example: Example) -> Literal["exact", "prompt"] | None:
        """Whether ``example`` is one of the rows, or asks the same as one of them."""
        if row_key(example) in self.rows:
            return "exact"
        return None if self.prompts.isdisjoint(_prompts(example)) else "prompt"


@dataclass(frozen=True)
class Goal:
    """Examples of what good looks like, in two halves that share no question.

    Gradients are compared with ``guide``; the race is judged on ``held_out``, which chose nothing.
    """

    path: str
    family: Family
    guide: list[Example]
    held_out: list[Example]
    notes: list[str] = field(default_factory=list)

    @property
    def examples(self) -> list[Example]:
        return [*self.guide, *self.held_out]


@dataclass(frozen=True)
class Candidate:
    """One data set. ``examples`` are at most ``POOL`` different rows in a seeded order, duplicates of the
    problem and of the test file left out. ``duplicates`` counts those by file and kind. ``fault`` says why
    it cannot be compared, if it cannot.
    """

    name: str
    examples: list[Example] = field(default_factory=list)
    rows: int = 0
    rejected: int = 0
    unfit: int = 0
    duplicates: dict[str, int] = field(default_factory=dict)
    licences: list[Licence] = field(default_factory=list)
    fault: str | None = None


def family_of(example: Example) -> Family | None:
    """How the row can be learnt to be written: as an answer, as a document, or not at all."""
    if isinstance(example, Conversation):
        return "chat"
    if isinstance(example, Labelled):
        return "chat" if isinstance(example.label, str) else None
    return "document" if isinstance(example, Text) else None


def read_problem(path: Path, seed: int) -> Goal:
    """The examples of the problem; raises ``DataError`` if there are too few that can be learnt to write."""
    rejected, kinds, usable = 0, Counter[str](), {}
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
    if family is None or len(examples) < LEAST_PROBLEM:
        held = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no"
        raise DataError(
            f"{path}: the problem needs {LEAST_PROBLEM} or more different rows of one kind, {WORDS['chat']} or"
            f" {WORDS['document']}; it has {held} rows, of which {len(examples)} can be used"
            f" ({rejected} unusable). 20 to 200 examples of what good looks like are best"
        )
    guide, held_out = _halves(examples, seed)
    return Goal(
        str(path), family, guide, held_out, _problem_notes(sum(kinds.values()), examples, rejected)
    )


def _problem_notes(rows: int, examples: list[Example], rejected: int) -> list[str]:
    notes = []
    if rejected:
        notes.append(f"{rejected} unusable rows of the problem were left out; see `tunewright data check`")
    if rows > len(examples):
        notes.append(f"{rows - len(examples)} rows of the problem repeat another or are of another kind")
    if len(examples) < FEW:
        notes.append(f"the problem has only {len(examples)} examples: intervals will be wide; give {FEW} or more")
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
        raise DataError("the examples of the problem all ask the same; give examples with different questions")
    return halves


def read_test(path: Path | None) -> list[Example]:
    """All rows of the test file that can be read; raises ``DataError`` if none can."""
    if path is None:
        return []
    rows = [item for item in read_examples(path) if not isinstance(item, Problem)]
    if not rows:
        raise DataError(f"{path}: no row of the test file can be read; see `tunewright data check {path}`")
    return rows


def read_candidates(
    paths: Iterable[Path], problem: Goal, test: list[Example], seed: int
) -> list[Candidate]:
    """Every candidate, also those that cannot be compared. Raises ``ConfigError`` for one given twice."""
    paths = list(paths)
    if again := [str(p) for p, count in Counter(map(str, paths)).items() if count > 1]:
        raise ConfigError(f"candidate {again[0]} is given twice; name each data set once")
    if not paths:
        raise ConfigError("no candidate is given; name data sets with --candidates A B C")
    known = {"problem": Known.of(problem.examples), "test": Known.of(test)}
    return [_read(path, problem.family, known, seed) for path in paths]


def _read(path: Path, family: Family, known: dict[str, Known], seed: int) -> Candidate:
    try:
        file = _file_of(path)
        draw = _Draw(family, known, seed)
        draw.add_all(file)
        licences = licences_of(file)
    except (TunewrightError, OSError) as error:
        return Candidate(str(path), fault=f"it cannot be read: {error}")
    return Candidate(
        str(path),
        draw.examples(),
        draw.rows,
        draw.rejected,
        sum(draw.others.values()),
        dict(draw.duplicates),
        licences,
        draw.fault(),
    )


def _file_of(path: Path) -> Path:
    """The file itself, or the training rows in a folder that ``data prepare`` wrote."""
    if not path.is_dir():
        return path
    if (path / PREPARED).exists():
        return path / PREPARED
    raise DataError(f"{path} is a folder without {PREPARED}; name a file in it, or a folder of `data prepare`")


class _Draw:
    """A seeded draw of different rows by content, in constant memory, and the count of all others."""

    def __init__(self, family: Family, known: dict[str, Known], seed: int) -> None:
        self.family, self.known, self.seed = family, known, seed
        self.rows = self.rejected = 0
        self.others: Counter[str] = Counter()
        self.duplicates: Counter[str] = Counter()
        self._heap: list[tuple[float, int, Key, Example]] = []  # the largest chance on top, negated
        self._held: set[Key] = set()

    def add_all(self, file: Path) -> None:
        """Read the whole file once."""
        for item in read_examples(file):
            if isinstance(item, Problem):
                self.rejected += item.action == "rejected"
                continue
            self.rows += 1
            if family_of(item) != self.family:
                self.others[kind_of(item)] += 1
            elif not self._is_known(item):
                self._add(item)

    def examples(self) -> list[Example]:
        """What was drawn; the first n of them are a draw of n."""
        return [example for *_, example in sorted(self._heap, key=lambda entry: -entry[0])]

    def fault(self) -> str | None:
        """Why nothing can be said of this data set, if so."""
        count = len(self._heap)
        if count >= LEAST:
            return None
        if self.rows == 0:
            return f"it has no usable row ({self.rejected} unusable); see `tunewright data check`"
        if self.others and sum(self.others.values()) == self.rows:
            kinds = " and ".join(sorted(self.others))
            return (
                f"its rows are of another kind ({kinds}) than the problem's, which are {WORDS[self.family]};"
                " write their answers out in a file of their own"
            )
        left = self.duplicates["rows"]
        return (
            f"{count} different rows are left of {self.rows} ({left} are in the problem or the test file);"
            f" {LEAST} are needed"
        )

    def _is_known(self, example: Example) -> bool:
        hits = {name: hit for name, keys in self.known.items() if (hit := keys.meets(example))}
        self.duplicates.update(f"{name}_{hit}" for name, hit in hits.items())
        self.duplicates["rows"] += bool(hits)
        return bool(hits)

    def _add(self, example: Example) -> None:
        key = row_key(example)
        if key in self._held:
            return
        entry = (-unit_interval(self.seed, "drawn", key.hex()), self.rows, key, example)
        self._held.add(key)
        if len(self._heap) < POOL:
            heapq.heappush(self._heap, entry)
        else:
            self._held.discard(heapq.heappushpop(self._heap, entry)[2])


def _prompts(example: Example) -> Iterator[Key]:
    yield prompt_key(example)
    yield from earlier_prompt_keys(example)
