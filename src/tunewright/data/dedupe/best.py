"""Which row of a cluster stays, by a stated rule.

1. Rows of a given test file come before those of a given validation file, and these before all others.
   They stay; every other row of their cluster goes, because it must not be trained on.
2. Then: a real row before a synthetic one; then fewest repairs; then fewest redactions; then the longest
   answer (beyond ``LONGEST`` words, longer is not better); then the first.

The best row of a cluster stays, and each row goes that is near *it*, says the same, and differs in no
number and no negation. A row that is near only to one that went is judged again beside what stays, so no
row goes for one that it does not resemble. Exact duplicates go everywhere, also within a given file.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tunewright.data.dedupe.clusters import THRESHOLD, Clusters
from tunewright.data.dedupe.similar import Comparer
from tunewright.data.dedupe.union import Rows

FACTS = np.dtype(
    [
        ("given", "u1"),  # 2 for a row of a given test file, 1 of a given validation file, else 0
        ("synthetic", "u1"),  # 1 for a row that a model wrote
        ("repairs", "<u4"),
        ("redactions", "<u4"),
        ("words", "<u4"),  # of the answer; of the text where there is none
        ("says", "<u8"),  # a hash of the label, 0 without one: rows that say different things both stay
    ]
)
DROPPED = np.dtype([("row", "<i8"), ("kept", "<i8"), ("similarity", "<f4"), ("reason", "u1")])
REASONS = ("duplicate", "near_duplicate", "near_validation", "near_test")  # by number; codes of ``RULES``
LONGEST = 1000
_BESIDE = 16  # rows that stay which a row is compared with: the best of its cluster, and the last ones
_AT_ONCE = 1024


def best_first(rows: Rows, leaders: Rows, facts: NDArray[np.void]) -> Rows:
    """``rows``, cluster by cluster, the best of each first."""
    own = facts[rows]
    length = np.minimum(own["words"], LONGEST).astype(np.int64)
    given = -own["given"].astype(np.int64)
    return rows[
        np.lexsort((rows, -length, own["redactions"], own["repairs"], own["synthetic"], given, leaders[rows]))
    ]


def dropped(
    found: Clusters,
    facts: NDArray[np.void],
    comparer: Comparer,
    exact: Rows | None = None,
    threshold: float = THRESHOLD,
) -> NDArray[np.void]:
    """The rows that go, in order, as ``DROPPED``: for which row, how similar to it, and why.

    ``exact`` holds the first row of the group of exact duplicates of every row.
    """
    members = best_first(found.members, found.leaders, facts)
    chooser = _Chooser(facts, comparer, exact, threshold)
    lost: list[tuple[int, int, float, int]] = []
    for rows in _clusters(members, found.leaders):
        if len(rows) <= _AT_ONCE:
            comparer.load(rows)
        lost += chooser.lost(rows)
    made = np.array(lost, DROPPED)
    return made[np.argsort(made["row"], kind="stable")]


def _clusters(members: Rows, leaders: Rows) -> Iterator[list[int]]:
    edges = np.flatnonzero(np.diff(leaders[members], prepend=-1, append=-1))
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield members[start:end].tolist()


class _Chooser:
    """Applies the rule to one cluster after the other."""

    def __init__(
        self, facts: NDArray[np.void], comparer: Comparer, exact: Rows | None, threshold: float
    ) -> None:
        self._facts = facts
        self._comparer = comparer
        self._exact = exact
        self._threshold = threshold

    def lost(self, rows: list[int]) -> list[tuple[int, int, float, int]]:
        """What goes of the rows of a cluster, best first."""
        home = int(self._facts["given"][rows[0]])
        kept: list[int] = []
        lost = []
        for row in rows:
            given = int(self._facts["given"][row])
            if given < home:
                lost.append((row, kept[0], self._comparer.similarity(kept[0], row), 1 + home))
            elif found := self._stands_for(row, kept, given > 0):
                lost.append((row, *found))
            else:
                kept.append(row)
        return lost

    def _stands_for(self, row: int, kept: list[int], stays: bool) -> tuple[int, float, int] | None:
        """The row that stays for ``row``, their similarity, and the reason; ``None`` if it stays itself."""
        beside = kept if len(kept) <= _BESIDE else [kept[0], *kept[1 - _BESIDE :]]
        for other in beside:
            if self._exact is not None and self._exact[row] == self._exact[other]:
                return other, 1.0, 0
            if stays or self._facts["says"][row] != self._facts["says"][other]:
                continue
            similarity = self._comparer.similarity(other, row)
            if similarity >= self._threshold and self._comparer.interchangeable(other, row):
                return other, similarity, 1
        return None
