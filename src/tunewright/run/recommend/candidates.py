"""The candidates: what is read of them, and what is left out and why.

They are streamed: of any number of rows only a seeded draw of ``POOL`` is kept in memory.
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
from tunewright.core.records import Example, kind_of
from tunewright.data.keys import Key, earlier_prompt_keys, prompt_key, row_key
from tunewright.data.load import read_examples
from tunewright.data.problems import Problem
from tunewright.run.recommend.goal import WORDS, Family, Goal, family_of
from tunewright.run.recommend.licence import Licence, licences_of

POOL = 2000  # rows of a candidate that are kept
LEAST = 4  # usable rows below which nothing can be said of a data set
PREPARED = "train.jsonl"


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


def read_candidates(paths: Iterable[Path], problem: Goal, test: list[Example], seed: int) -> list[Candidate]:
    """Every candidate, also those that cannot be compared. Raises ``ConfigError`` for one given twice."""
    paths = list(paths)
    if again := [str(p) for p, count in Counter(map(str, paths)).items() if count > 1]:
        raise ConfigError(f"candidate {again[0]} is given twice; name each data set once")
    if not paths:
        raise ConfigError("no candidate is given; name data sets with --candidates A B C")
    known = {"problem": Known.of([*problem.examples, *problem.spare]), "test": Known.of(test)}
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
    raise DataError(
        f"{path} is a folder without {PREPARED}; name a file in it, or a folder of `data prepare`"
    )


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
