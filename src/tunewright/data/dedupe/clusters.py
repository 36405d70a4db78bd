"""Groups of rows: those with an equal key, and those that are near-duplicates of each other.

Near-duplicates are found band by band. Rows with the same band hash are put side by side, ordered by the
hash of the next band, and each is compared exactly with the first of them and with the one before it. So
a million equal rows take a million comparisons in one band and none in the others, because rows of one
group are not compared again. What is joined does not depend on the order in which rows come from disk,
nor on the size of any chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tunewright.data.dedupe.ordered import Records, Space, in_blocks, ordered, records
from tunewright.data.dedupe.similar import Comparer
from tunewright.data.dedupe.union import Rows, alone, join, roots, settle
from tunewright.data.dedupe.words import Hashes

THRESHOLD = 0.8
_BLOCK = 1 << 16  # records whose pairs are looked at together
_PAIRS = 1 << 11  # pairs that are compared before their groups are joined


class Bands(Protocol):
    """Sketches of ``rows`` rows: ``column`` gives one band hash of each, in order, in chunks of any size."""

    @property
    def rows(self) -> int: ...

    @property
    def bands(self) -> int: ...

    def column(self, band: int) -> Iterator[Hashes]: ...


@dataclass(frozen=True)
class InMemory:
    """The sketches of ``sketch`` as they are, ``(rows, bands)``."""

    sketches: Hashes

    @property
    def rows(self) -> int:
        return len(self.sketches)

    @property
    def bands(self) -> int:
        return self.sketches.shape[1]

    def column(self, band: int) -> Iterator[Hashes]:
        yield self.sketches[:, band]


@dataclass(frozen=True, slots=True)
class Clusters:
    """The first row of the cluster of every row, and the highest similarity found to another row of it.

    The similarity of a row that stands alone is 0, that of exact duplicates 1. ``comparisons`` were made.
    """

    leaders: Rows
    similarity: NDArray[np.float32]
    comparisons: int

    @property
    def members(self) -> Rows:
        """Rows of clusters of at least two, cluster by cluster; each cluster in row order."""
        sizes = np.bincount(self.leaders, minlength=len(self.leaders))
        rows = np.flatnonzero(sizes[self.leaders] > 1)
        return rows[np.argsort(self.leaders[rows], kind="stable")]


def numbered(chunks: Iterable[Hashes]) -> Iterator[tuple[Rows, Hashes]]:
    """Keys of rows 0, 1, 2 …, chunk by chunk, with their row numbers."""
    start = 0
    for chunk in chunks:
        yield np.arange(start, start + len(chunk), dtype=np.int64), chunk
        start += len(chunk)


def groups(keys: Iterable[tuple[Rows, Hashes]], parents: Rows, space: Space | None = None) -> None:
    """Join rows that share a 16-byte key, given as two ``uint64``, ``(n, 2)``; changes ``parents``.

    A row may come with several keys, or with none. Call it again to join by keys of another kind.
    """
    made = (records(key[:, 0], rows, second=key[:, 1]) for rows, key in keys)
    last = None
    for chunk in ordered(made, space):
        whole = chunk if last is None else np.concatenate((last, chunk))
        equal = (whole["key"][1:] == whole["key"][:-1]) & (whole["second"][1:] == whole["second"][:-1])
        join(parents, whole["row"][:-1][equal], whole["row"][1:][equal])
        last = whole[-1:]
    settle(parents)


def clusters(
    bands: Bands,
    text_of: Callable[[int], str],
    threshold: float = THRESHOLD,
    parents: Rows | None = None,
    space: Space | None = None,
) -> Clusters:
    """Join rows whose similarity is at least ``threshold``; ``text_of`` gives the ``row_text`` of a row.

    ``parents`` are groups of exact duplicates, of which only the first row is compared; it is changed, and
    may be a ``np.memmap``.
    """
    parents = alone(bands.rows) if parents is None else parents
    settle(parents)
    opens = parents == np.arange(bands.rows)
    finder = _Finder(parents, Comparer(text_of), threshold, np.zeros(bands.rows, np.float32))
    exact = np.flatnonzero(~opens)
    finder.similarity[exact] = finder.similarity[parents[exact]] = 1.0
    for band in range(bands.bands):
        finder.look(in_blocks(ordered(_records(bands, band, opens), space), _BLOCK))
    settle(parents)
    return Clusters(parents, finder.similarity, finder.comparisons)


def _records(bands: Bands, band: int, used: NDArray[np.bool_]) -> Iterator[Records]:
    """Hashes of one band with those of the next, for rows that are used."""
    following = in_blocks(_column(bands, (band + 1) % bands.bands), _BLOCK)
    for first, second in zip(in_blocks(_column(bands, band), _BLOCK), following, strict=True):
        kept = used[first["row"]]
        yield records(first["key"][kept], first["row"][kept], second=second["key"][kept])


def _column(bands: Bands, band: int) -> Iterator[Records]:
    for rows, hashes in numbered(bands.column(band)):
        yield records(hashes, rows)


@dataclass
class _Finder:
    """Joins groups while it goes through records in order."""

    parents: Rows
    comparer: Comparer
    threshold: float
    similarity: NDArray[np.float32]
    comparisons: int = 0

    def look(self, blocks: Iterator[Records]) -> None:
        """Compare rows that share a key with the first row that has it, then with the row before."""
        last, leader = None, -1
        for block in blocks:
            rows, keys = block["row"], block["key"]
            if last is None:
                last, leader = block[0], int(rows[0])
                before, equal = rows[:1], np.array([False])
            else:
                before, equal = last["row"].reshape(1), keys[:1] == last["key"]
            before = np.concatenate((before, rows[:-1]))
            equal = np.concatenate((equal, keys[1:] == keys[:-1]))
            began = np.maximum.accumulate(np.where(equal, -1, np.arange(len(rows))))
            leaders = np.where(began >= 0, rows[began], leader)
            self._compare(leaders[equal], rows[equal])
            further = equal & (before != leaders)
            self._compare(before[further], rows[further])
            last, leader = block[-1], int(leaders[-1])

    def _compare(self, a: Rows, b: Rows) -> None:
        """Compare pairs that are not yet of one group, and join those that are similar."""
        for start in range(0, len(a), _PAIRS):
            one, other = a[start : start + _PAIRS], b[start : start + _PAIRS]
            apart = roots(self.parents, one) != roots(self.parents, other)
            one, other = one[apart], other[apart]
            if not len(one):
                continue
            pairs = list(zip(one.tolist(), other.tolist(), strict=True))
            self.comparer.load([row for pair in pairs for row in pair])
            found = np.array([self.comparer.similarity(*pair) for pair in pairs], np.float32)
            self.comparisons += len(pairs)
            near = found >= np.float32(self.threshold)
            join(self.parents, one[near], other[near])
            for rows in (one[near], other[near]):
                np.maximum.at(self.similarity, rows, found[near])
