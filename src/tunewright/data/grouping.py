"""Rows that share a key belong together: found with sorted arrays, 24 bytes a key, never with Python objects.

A key is 16 bytes (``data.keys``), held as two 64-bit numbers. The root of a group is always its first row, so
groups do not depend on the order in which they were joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tunewright.data.keys import Key

KEY = np.dtype([("row", "<i8"), ("a", "<u8"), ("b", "<u8")])
Rows = NDArray[np.int64]


def key_array(keys: Sequence[Key], rows: Sequence[int]) -> NDArray[np.void]:
    """``(m,)`` entries of ``KEY`` from 16-byte keys and the rows that have them."""
    table = np.empty(len(keys), KEY)
    halves = np.frombuffer(b"".join(keys), "<u8").reshape(-1, 2)
    table["row"], table["a"], table["b"] = rows, halves[:, 0], halves[:, 1]
    return table


def first_rows(keys: NDArray[np.void]) -> Rows:
    """For each entry of ``KEY`` the first row that has its key; ``keys`` may come in any order."""
    order = np.lexsort((keys["row"], keys["b"], keys["a"]))
    a, b = keys["a"][order], keys["b"][order]
    opens = np.ones(len(keys), bool)
    opens[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    runs = np.cumsum(opens) - 1
    first = np.empty(len(keys), np.int64)
    first[order] = keys["row"][order][np.flatnonzero(opens)][runs]
    return first


def join(parents: Rows, pairs: Iterable[tuple[int, int]]) -> None:
    """Join the groups of each pair of rows; changes ``parents``, in which a root is the first of its rows."""
    for one, other in pairs:
        first, second = sorted((root(parents, one), root(parents, other)))
        parents[second] = first


def root(parents: Rows, row: int) -> int:
    """The first row of the group of ``row``; shortens the way for the next time."""
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = int(parents[row])
    return row


def flattened(parents: Rows) -> Rows:
    """The root of every row."""
    while True:
        above = parents[parents]
        if np.array_equal(above, parents):
            return above
        parents = above


def joined(rows: int, keys: NDArray[np.void], parents: Rows | None = None) -> tuple[Rows, NDArray[np.bool_]]:
    """The first row of each row's group, and which rows *opened* a group.

    Rows of one key are one group, together with what ``parents`` joined before. A row opens a group if it
    shares no key with a row before it; it leads no longer if a later row joins it to another.
    """
    parents = np.arange(rows) if parents is None else flattened(parents).copy()
    first = first_rows(keys)
    later = first != keys["row"]
    opened = parents == np.arange(rows)
    opened[keys["row"][later]] = False
    join(parents, zip(first[later].tolist(), keys["row"][later].tolist(), strict=True))
    return flattened(parents), opened
