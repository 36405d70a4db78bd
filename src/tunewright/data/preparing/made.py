"""Synthetic rows: they only ever train, and nothing that validation or test rows ask may stand among them.

The real rows are compared and divided as if the others were not there, so the same rows judge a model
whatever it was taught besides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tunewright.data.dedupe.union import Rows
from tunewright.data.preparing.ledger import Ledger
from tunewright.data.preparing.store import Store
from tunewright.data.split import SIDES, TRAIN


def real_rows(store: Store) -> NDArray[np.bool_]:
    """Which rows nobody marked as written by a model."""
    real: NDArray[np.bool_] = np.array(store.facts["synthetic"]) == 0
    return real


def drop_synthetic_judges(ledger: Ledger) -> None:
    """Drop synthetic rows from the files that were given for validation and test."""
    store = ledger.store
    rows = np.flatnonzero(ledger.left & ~real_rows(store) & (store.sides != TRAIN))
    if len(rows):
        ledger.drop(
            "synthetic",
            rows,
            ["synthetic"] * len(rows),
            lambda store, row: f"it stands in the {SIDES[store.sides[row]]} data",
        )


def drop_synthetic_copies(ledger: Ledger, sides: NDArray[np.int8], near: Rows | None) -> None:
    """Drop synthetic rows that share a group, prompt, text or cluster with a row that judges."""
    store = ledger.store
    made = ledger.left & ~real_rows(store)
    if not made.any():
        return
    judges = ledger.left & (sides != TRAIN)
    met = _met_by_key(store, made, judges)
    if near is not None:
        first = {int(near[row]): row for row in np.flatnonzero(judges)[::-1].tolist()}
        for row in np.flatnonzero(made).tolist():
            if int(near[row]) in first:
                met.setdefault(row, first[int(near[row])])
    rows = np.array(sorted(met), np.int64)
    ledger.drop(
        "synthetic",
        rows,
        [f"in_{SIDES[sides[met[row]]]}" for row in rows.tolist()],
        lambda store, row: f"shares a group with {store.where(met[row])}",
    )


def _met_by_key(store: Store, made: NDArray[np.bool_], judges: NDArray[np.bool_]) -> dict[int, int]:
    """For each row of ``made`` that shares a key with one of ``judges``, the first such row."""
    keys = store.table.keys
    asked, own = keys[judges[keys["row"]]], keys[made[keys["row"]]]
    order = np.lexsort((asked["row"], asked["b"], asked["a"]))
    pairs = [tuple(entry) for entry in asked[order][["a", "b"]].tolist()]
    first = dict(zip(reversed(pairs), reversed(asked["row"][order].tolist()), strict=True))
    met: dict[int, int] = {}
    for row, a, b in own.tolist():
        if (a, b) in first:
            met[row] = min(met.get(row, first[a, b]), first[a, b])
    return met
