"""Rows that ask the same and say different things: put up for review, never dropped by default.

Questions are the same if they look alike: equal words, whatever their case, punctuation and white space.
What must agree is the last answer of a conversation, the label of a labelled row, the chosen side of a
pair, the order of a ranking. Answers that are near each other, and differ in no number and no negation,
agree. A document and a prompt say nothing. Where most rows stand in such groups, several answers are
there on purpose (samples, styles); ``Contradictions.on_purpose`` tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunewright.core.records import Conversation, Example, Labelled, Preference, Ranking
from tunewright.data.dedupe.clusters import THRESHOLD, Clusters
from tunewright.data.dedupe.ordered import Records, Space, ordered, records
from tunewright.data.dedupe.similar import Comparer
from tunewright.data.dedupe.sketch import ANSWER, TURN, row_text, shingles
from tunewright.data.dedupe.union import Rows
from tunewright.data.dedupe.words import Hashes, offsets_of
from tunewright.data.keys import answer_of, respaced

SHOWN = 64  # rows of one group that are compared and reported; the others are counted
_PURPOSE = 0.5  # share of all rows from which several answers are no accident


class Said(NamedTuple):
    """What n rows ask and say: ``question`` ``(n, 2)`` and ``says`` ``(n,)``; 0 where a row says nothing."""

    question: Hashes
    says: Hashes


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Rows that ask the same with ``answers`` different answers or more; at most ``SHOWN`` of ``count``."""

    rows: tuple[int, ...]
    count: int
    answers: int


@dataclass(frozen=True, slots=True)
class Contradictions:
    """All of them, in the order of their first rows, among ``rows`` rows that say something."""

    found: list[Contradiction]
    rows: int

    @property
    def on_purpose(self) -> bool:
        """Whether so many rows are concerned that the data set means to give several answers."""
        return sum(one.count for one in self.found) > _PURPOSE * self.rows


def said(examples: Sequence[Example]) -> Said:
    """What each example asks and says, as hashes; answers are the same if their words are."""
    speaks = [isinstance(e, Conversation | Labelled | Preference | Ranking) for e in examples]
    asked = [_question(e) if used else [] for e, used in zip(examples, speaks, strict=True)]
    texts = [[answer_of(e)] if used else [] for e, used in zip(examples, speaks, strict=True)]
    question = _keys(asked).reshape(-1, 2).copy()
    says = np.maximum(_keys(texts).reshape(-1, 2)[:, 0], np.uint64(1))
    for i, example in enumerate(examples):
        if isinstance(example, Labelled):
            says[i] = max(1, label_hash(example))
    silent = ~np.array(speaks, np.bool_)
    question[silent], says[silent] = 0, 0
    return Said(question, says)


def label_hash(example: Example) -> int:
    """A hash of the label; 0 for a row without one. For ``FACTS["says"]`` and ``label_conflicts``."""
    if not isinstance(example, Labelled):
        return 0
    text = respaced(answer_of(example)).encode("utf-8", "surrogatepass")
    return max(1, int.from_bytes(blake2b(text, digest_size=8).digest()))


def contradictions(
    given: Iterable[tuple[Rows, Said]],
    comparer: Comparer,
    labelled: NDArray[np.bool_],
    threshold: float = THRESHOLD,
    space: Space | None = None,
) -> Contradictions:
    """Rows with the same question whose answers do not agree; ``labelled`` tells whose answers are labels."""
    counted = [0]
    found = []
    for run in _runs(ordered(_spoken(given, counted), space)):
        answers = np.unique(run["says"])
        if len(answers) == 1:
            continue
        rows = np.sort(run["row"])
        first = _first_of_each(run)[:SHOWN]
        if any(_differ(first[0], other, comparer, labelled, threshold) for other in first[1:]):
            shown = rows if len(rows) <= SHOWN else np.sort(np.unique(np.concatenate((first, rows)))[:SHOWN])
            found.append(Contradiction(tuple(shown.tolist()), len(rows), len(answers)))
    return Contradictions(sorted(found, key=lambda one: one.rows), counted[0])


def label_conflicts(found: Clusters, labels: Hashes) -> list[Contradiction]:
    """Clusters of near-identical texts with different labels (``label_hash`` of each row)."""
    members = found.members
    members = members[labels[members] != 0]
    edges = np.flatnonzero(np.diff(found.leaders[members], prepend=-1, append=-1))
    conflicts = []
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        rows = members[start:end]
        if answers := len(np.unique(labels[rows])) - 1:
            conflicts.append(Contradiction(tuple(rows[:SHOWN].tolist()), len(rows), answers + 1))
    return conflicts


def _question(example: Example) -> list[str]:
    """What must get the same answer, in parts: roles and turns; for rows that judge answers, those too."""
    asked, _, answered = row_text(example).partition(ANSWER)
    turns = asked.split(TURN)
    if isinstance(example, Preference | Ranking):
        turns += sorted(answered.split(TURN))
    return [part for turn in turns for part in turn.split(": ", 1)]


def _keys(rows: Sequence[Sequence[str]]) -> Hashes:
    """16 bytes for each row, equal for parts of equal words; for parts without words, of equal characters."""
    hashes, starts = shingles([part for parts in rows for part in parts])
    edges = starts[offsets_of(np.array([len(parts) for parts in rows], np.int64))].tolist()
    made = (blake2b(hashes[edges[i] : edges[i + 1]].tobytes(), digest_size=16) for i in range(len(rows)))
    return np.frombuffer(b"".join(one.digest() for one in made), "<u8")


def _spoken(given: Iterable[tuple[Rows, Said]], counted: list[int]) -> Iterator[Records]:
    for rows, (question, says) in given:
        used = says != 0
        counted[0] += int(used.sum())
        yield records(question[used, 0], rows[used], second=question[used, 1], says=says[used])


def _runs(chunks: Iterator[Records]) -> Iterator[Records]:
    """Records of at least two rows with equal keys, together."""
    held: Records | None = None
    for chunk in chunks:
        whole = chunk if held is None else np.concatenate((held, chunk))
        new = (whole["key"][1:] != whole["key"][:-1]) | (whole["second"][1:] != whole["second"][:-1])
        edges = [0, *(np.flatnonzero(new) + 1).tolist()]
        for start, end in pairwise(edges):
            if end - start > 1:
                yield whole[start:end]
        held = whole[edges[-1] :]
    if held is not None and len(held) > 1:
        yield held


def _first_of_each(run: Records) -> list[int]:
    """The first row of each different answer, in row order."""
    order = np.lexsort((run["row"], run["says"]))
    says = run["says"][order]
    opens = np.concatenate(([True], says[1:] != says[:-1]))
    return sorted(run["row"][order][opens].tolist())


def _differ(a: int, b: int, comparer: Comparer, labelled: NDArray[np.bool_], threshold: float) -> bool:
    if labelled[a] or labelled[b]:
        return True
    return comparer.similarity(a, b) < threshold or not comparer.interchangeable(a, b)
