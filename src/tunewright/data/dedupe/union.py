"""Rows joined into groups (union-find), in one array that may lie on disk.

``parents[row]`` is never above ``row``. The root of a group is its first row, however the group was put
together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
_AT_ONCE = 1 << 20


def alone(count: int) -> Rows:
    """``count`` rows, each a group of its own."""
    return np.arange(count, dtype=np.int64)


def roots(parents: Rows, rows: Rows) -> Rows:
    """The first row of the group of each of ``rows``; shortens the way there."""
    found = parents[rows]
    while True:
        further = parents[found]
        if np.array_equal(further, found):
            parents[rows] = found
            return found
        found = further


def join(parents: Rows, a: Rows, b: Rows) -> None:
    """Join the groups of ``a[i]`` and ``b[i]``, for every i."""
    while True:
        a, b = roots(parents, a), roots(parents, b)
        apart = a != b
        if not apart.any():
            return
        a, b = a[apart], b[apart]
        np.minimum.at(parents, np.maximum(a, b), np.minimum(a, b))


def settle(parents: Rows) -> None:
    """Make every row point at the first of its group."""
    for start in range(0, len(parents), _AT_ONCE):
        roots(parents, np.arange(start, min(start + _AT_ONCE, len(parents)), dtype=np.int64))
