"""Which side every row that is left goes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tunewright.core.errors import DataError
from tunewright.data.dedupe.crossing import crossing
from tunewright.data.dedupe.union import Rows
from tunewright.data.grouping import joined
from tunewright.data.preparing.compare import near_parents, separate
from tunewright.data.preparing.ledger import Ledger
from tunewright.data.preparing.made import drop_synthetic_copies, real_rows
from tunewright.data.preparing.near import Near, rejoined
from tunewright.data.preparing.settings import PrepareSettings, SplitSettings
from tunewright.data.preparing.store import subset
from tunewright.data.split import SIDES, TRAIN, Side, deal, shares_of
from tunewright.data.split_time import deal_by_time

LOOKS = 6  # times that near-duplicates are looked for afresh, at most


def divided(
    ledger: Ledger, given: Mapping[Side, Sequence[object]], settings: PrepareSettings, near: Near | None
) -> tuple[NDArray[np.int8], list[str], dict[str, int]]:
    """The side of every row, notes, and the proof that nothing stands on two sides.

    With near-duplicates the proof looks afresh, with other sketches; a pair that the clusters missed is
    joined to them and the rows are divided again, until no pair is found.
    """
    looked = 0
    while True:
        leaders = near.leaders if near else None
        sides, notes = divide(ledger, given, settings.split, leaders)
        drop_synthetic_copies(ledger, sides, leaders)
        pairs = 0
        if near is not None:
            looked += 1
            near, pairs = rejoined(near, ledger, sides, settings.compare.threshold)
        if not pairs or looked == LOOKS:
            break
        if given["validation"] or given["test"]:
            separate(ledger, near.leaders if near else None)
    proof = _proof(ledger, sides, leaders)
    assert not any(n for name, n in proof.items() if name.endswith("two_sides")), f"the split leaks: {proof}"
    if near is not None:
        proof |= {"looked_afresh": looked, "near_duplicate_pairs_on_two_sides": pairs}
    return sides, notes, proof


def divide(
    ledger: Ledger, given: Mapping[Side, Sequence[object]], settings: SplitSettings, near: Rows | None
) -> tuple[NDArray[np.int8], list[str]]:
    """The side of every row (its place in ``SIDES``), and notes; train gives what no file was given for.

    No group, prompt, text or cluster stands on two sides. Raises ``DataError`` for fewer groups than sides.
    """
    store = ledger.store
    sides = np.array(store.sides)
    notes = _unused_shares(ledger, given, settings)
    shares = shares_of(
        0.0 if given["validation"] else settings.validation, 0.0 if given["test"] else settings.test
    )
    table, rows = subset(store.table, ledger.left & real_rows(store) & (sides == TRAIN))
    groups, opened = joined(len(rows), table.keys, near_parents(near, rows), store.directory)
    if settings.time is None:
        dealt, more = deal(table, groups, opened, shares, seed=settings.seed, stratify=settings.stratify)
    else:
        dealt, more = deal_by_time(groups, np.array(store.facts["time"][rows]), dict(shares))
    sides[rows] = dealt
    if not len(rows) and (ledger.left & (sides == TRAIN)).any() and max(shares["validation"], shares["test"]):
        more = [*more, "no row of train is real, so none was split off; judge on real rows of your own"]
    return sides, notes + more


def _proof(ledger: Ledger, sides: NDArray[np.int8], near: Rows | None) -> dict[str, int]:
    """How many groups and clusters were looked at, and how many stand on two sides (none, if all is well)."""
    store = ledger.store
    table, rows = subset(store.table, ledger.left)
    groups, _ = joined(len(rows), table.keys, scratch=store.directory)
    own = sides[rows].astype(np.uint8)
    told = {"groups": len(np.unique(groups)), "groups_on_two_sides": len(crossing(groups, own))}
    if near is not None:
        sizes = np.unique(near[rows], return_counts=True)[1]
        told["near_duplicate_clusters"] = int((sizes > 1).sum())
        told["near_duplicate_clusters_on_two_sides"] = len(crossing(near[rows], own))
    return told


def _unused_shares(
    ledger: Ledger, given: Mapping[Side, Sequence[object]], settings: SplitSettings
) -> list[str]:
    notes = [
        f"{side}: the share {getattr(settings, side)} was not used, because files were given"
        for side in SIDES[1:]
        if given[side] and getattr(settings, side)
    ]
    left = ledger.store.sides[ledger.left]
    return notes + [
        f"{side}: files were given, but none of their rows is left"
        for side in SIDES[1:]
        if given[side] and not (left == SIDES.index(side)).any()
    ]


def rows_without_time(ledger: Ledger) -> Rows:
    """Rows that are to be divided by time and have none."""
    store = ledger.store
    needs = ledger.left & real_rows(store) & (store.sides == TRAIN)
    return np.flatnonzero(needs & np.isnan(store.facts["time"]))


def drop_without_time(ledger: Ledger, key: str) -> None:
    """Reject rows without the time they are to be divided by; raises ``DataError`` if none has it."""
    rows = rows_without_time(ledger)
    store = ledger.store
    if len(rows) and len(rows) == int((ledger.left & real_rows(store) & (store.sides == TRAIN)).sum()):
        raise DataError(f"split by time: no training row has a time under {key!r}; name another key")
    ledger.drop("time", rows, ["no_time"] * len(rows), lambda store, row: f"no readable time under {key!r}")
