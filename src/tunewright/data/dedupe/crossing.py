"""The proof that no near-duplicate stands on two sides of a split: by the clusters, and by looking again.

``crossing`` reads the clusters that the split was made with. ``second_look`` does not trust them: it reads
other sketches, made with another seed, and asks for every held-out row which training rows are near it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunewright.data.dedupe.clusters import THRESHOLD
from tunewright.data.dedupe.similar import Comparer
from tunewright.data.dedupe.union import Rows
from tunewright.data.dedupe.words import Hashes

MOST = 64
UNUSED = 255  # the side of a row that was dropped
_PAIRS = 1 << 11  # pairs that are compared together


class Crossing(NamedTuple):
    """Two near-duplicates of different sides; ``similarity`` is -1 where it was not measured."""

    first: int
    second: int
    similarity: float


def crossing(leaders: Rows, sides: NDArray[np.uint8]) -> list[Crossing]:
    """For every cluster on several sides, its first row and the first one of another side."""
    used = np.flatnonzero(sides != UNUSED)
    order = used[np.lexsort((used, leaders[used]))]
    first = np.flatnonzero(np.diff(leaders[order], prepend=-1))
    home = np.repeat(first, np.diff(first, append=len(order)))
    away = np.flatnonzero(sides[order] != sides[order[home]]) if len(order) else np.empty(0, np.int64)
    pairs = {int(order[home[i]]): int(order[i]) for i in away[::-1]}
    return [Crossing(one, other, -1.0) for one, other in sorted(pairs.items())]


def second_look(
    columns: Iterable[Hashes],
    held_out: NDArray[np.bool_],
    train: NDArray[np.bool_],
    comparer: Comparer,
    threshold: float = THRESHOLD,
) -> list[Crossing]:
    """Rows of ``train`` that are near a row that is held out, found by sketches of another seed.

    ``columns`` gives one band hash of every row after the other. No row is compared twice with the same one,
    nor with more than ``MOST`` of the held-out rows that share a band hash: where there are that many, some
    are found.
    """
    own, others = np.flatnonzero(held_out), np.flatnonzero(train)
    pairs: set[tuple[int, int]] = set()
    for column in columns if len(own) else ():
        order = np.argsort(column[own], kind="stable")
        hashes = column[own][order]
        begin = np.searchsorted(hashes, column[others], "left")
        end = np.minimum(np.searchsorted(hashes, column[others], "right"), begin + MOST)
        for i in np.flatnonzero(end > begin).tolist():
            row = int(others[i])
            pairs.update((row, held) for held in own[order[begin[i] : end[i]]].tolist())
    found = []
    for block in _batched(sorted(pairs), _PAIRS):
        comparer.load([row for pair in block for row in pair])
        scored = ((row, held, comparer.similarity(row, held)) for row, held in block)
        found += [Crossing(row, held, score) for row, held, score in scored if score >= threshold]
    return found


def _batched(pairs: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    """``pairs``, ``size`` at a time."""
    return (pairs[start : start + size] for start in range(0, len(pairs), size))
