"""What compares rows with each other: exact duplicates, and what would stand on two sides of a split."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.data.dedupe.union import Rows
from tunewright.data.grouping import KEY, first_rows, joined
from tunewright.data.preparing.ledger import Ledger
from tunewright.data.preparing.made import real_rows
from tunewright.data.preparing.store import Store, subset
from tunewright.data.split import SIDES


def drop_duplicates(ledger: Ledger) -> None:
    """Drop rows of a side that are equal but for white space within a part; the first real one is kept."""
    store = ledger.store
    of_side = store.facts["b"] ^ store.sides.astype(np.uint64)
    first = equal_rows(store, of_side, np.lexsort((np.arange(store.rows), store.facts["synthetic"])))
    rows = np.flatnonzero(ledger.left & (first != np.arange(store.rows)))
    ledger.drop(
        "duplicates",
        rows,
        ["duplicate"] * len(rows),
        lambda store, row: f"equal to {store.where(int(first[row]))}",
    )


def equal_rows(store: Store, second: NDArray[Any], order: Rows) -> Rows:
    """For each row the first in ``order`` that has the same exact key, whose other half is ``second``."""
    keys = np.zeros(store.rows, KEY)
    keys["row"], keys["a"], keys["b"] = np.arange(store.rows), store.facts["a"][order], second[order]
    first = np.empty(store.rows, np.int64)
    first[order] = order[first_rows(keys, store.rows, store.directory)]
    return first


def separate(ledger: Ledger, near: Rows | None) -> None:
    """Drop real rows that share a group with test from train and validation, with validation from train.

    ``near``: the first row of each row's cluster of near-duplicates, which is part of its group.
    """
    store = ledger.store
    real = ledger.left & real_rows(store)
    leaders = _leaders(store, real, near)
    homes = store.sides[leaders]
    rows = np.flatnonzero(real & (homes != store.sides))
    reasons = [f"in_{SIDES[home]}" for home in homes[rows].tolist()]
    ledger.drop(
        "separate",
        rows,
        reasons,
        lambda store, row: f"shares a group with {store.where(int(leaders[row]))}",
    )


def _leaders(store: Store, left: NDArray[np.bool_], near: Rows | None) -> Rows:
    """For each row that is left the first row of its group; for the others the row itself."""
    table, rows = subset(store.table, left)
    groups, _ = joined(len(rows), table.keys, near_parents(near, rows), store.directory)
    leaders = np.arange(store.rows)
    leaders[rows] = rows[groups]
    return leaders


def near_parents(near: Rows | None, rows: Rows) -> Rows | None:
    """Clusters among ``rows`` alone: the place in ``rows`` of the first of them in each row's cluster."""
    if near is None:
        return None
    _, first, inverse = np.unique(near[rows], return_index=True, return_inverse=True)
    parents: Rows = first[inverse]
    return parents
