"""The proof that no near-duplicate stands on two sides of a split: by the clusters, and by looking again.

``crossing`` reads the clusters that the split was made with. ``recheck`` does not trust them: it sketches
the rows again with another seed, and asks for every held-out row which training rows are near it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunewright.data.dedupe.clusters import THRESHOLD
from tunewright.data.dedupe.similar import Compared, compared, similarity
from tunewright.data.dedupe.sketch import BANDS, sketch
from tunewright.data.dedupe.union import Rows

MOST = 64
UNUSED = 255  # the side of a row that was dropped
OTHER_SEED = 2_147_483_629


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


def recheck(
    held_out: Iterable[tuple[int, str]],
    train: Iterable[tuple[int, str]],
    threshold: float = THRESHOLD,
    at_once: int = 4096,
) -> list[Crossing]:
    """Rows of ``train`` that are near a row of ``held_out``, each given as number and ``row_text``.

    Memory grows with the held-out rows only. No row is compared twice with the same one, nor with more than
    ``MOST`` of the held-out rows that share a band hash: where there are that many, some are found.
    """
    held = list(held_out)
    if not held:
        return []
    sketches = sketch([text for _, text in held], OTHER_SEED)
    order = np.argsort(sketches, axis=0, kind="stable")
    columns = np.take_along_axis(sketches, order, axis=0)
    found: list[Crossing] = []
    for block in _blocks(train, at_once):
        asked = sketch([text for _, text in block], OTHER_SEED)
        pairs: set[tuple[int, int]] = set()
        for band in range(BANDS):
            begin = np.searchsorted(columns[:, band], asked[:, band], "left")
            end = np.searchsorted(columns[:, band], asked[:, band], "right")
            end = np.minimum(end, begin + MOST)
            for i in np.flatnonzero(end > begin).tolist():
                pairs.update((i, int(j)) for j in order[begin[i] : end[i], band])
        found += _verified(sorted(pairs), block, held, threshold)
    return sorted(found)


def _verified(
    pairs: list[tuple[int, int]], block: list[tuple[int, str]], held: list[tuple[int, str]], threshold: float
) -> list[Crossing]:
    rows = _read({i for i, _ in pairs}, block)
    others = _read({j for _, j in pairs}, held)
    scored = ((i, j, similarity(rows[i], others[j])) for i, j in pairs)
    return [Crossing(block[i][0], held[j][0], score) for i, j, score in scored if score >= threshold]


def _read(places: set[int], rows: list[tuple[int, str]]) -> dict[int, Compared]:
    """The rows at some places, ready to be compared."""
    order = sorted(places)
    return dict(zip(order, compared([rows[place][1] for place in order]), strict=True))


def _blocks(rows: Iterable[tuple[int, str]], size: int) -> Iterable[list[tuple[int, str]]]:
    block: list[tuple[int, str]] = []
    for row in rows:
        block.append(row)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
