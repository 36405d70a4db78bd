"""Near-duplicates and contradictions among the rows that are left, found on disk over all parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunewright.data.dedupe.best import FACTS as CHOICE
from tunewright.data.dedupe.best import REASONS, dropped
from tunewright.data.dedupe.clusters import Clusters, clusters
from tunewright.data.dedupe.contradictions import Contradiction, Said, contradictions, label_conflicts
from tunewright.data.dedupe.crossing import second_look
from tunewright.data.dedupe.ordered import Space
from tunewright.data.dedupe.report import cluster_report, contradiction_report, label_report
from tunewright.data.dedupe.similar import Comparer
from tunewright.data.dedupe.sketch import BANDS, row_text
from tunewright.data.dedupe.union import Rows
from tunewright.data.dedupe.words import Hashes
from tunewright.data.preparing.compare import equal_rows
from tunewright.data.preparing.ledger import Ledger
from tunewright.data.preparing.store import Store
from tunewright.data.split import SIDES

GIVEN = {"test": 2, "validation": 1, "train": 0}


@dataclass(frozen=True, slots=True)
class Near:
    """Clusters of near-duplicates over all rows, what is reported of them, and rows that contradict."""

    leaders: Rows
    report: dict[str, Any]
    contradicting: list[Contradiction]


def find_near(ledger: Ledger, threshold: float, drop: bool, scratch: Path) -> Near:
    """Find clusters and contradictions among the rows that are left; ``drop`` keeps the best of a cluster."""
    store = ledger.store
    comparer = _comparer(store)
    parents = equal_rows(store, store.facts["b"], np.arange(store.rows))
    found = _among(clusters(_Bands(store), _text_of(store), threshold, parents, Space(scratch)), ledger)
    contradicting = contradictions(
        _said(store, ledger), comparer, np.array(store.facts["label"]) != 0, threshold, Space(scratch)
    )
    labels = label_conflicts(found, np.array(store.facts["label"]))
    report = {
        "near_duplicates": cluster_report(found, store.where),
        "contradictions": contradiction_report(contradicting, store.where),
        "label_conflicts": label_report(labels, store.where),
    }
    if drop:
        lost = dropped(found, _choices(store), comparer, None, threshold)
        _drop(ledger, lost[ledger.left[lost["row"]]])
    return Near(found.leaders, report, [*contradicting.found, *labels])


def rejoined(near: Near, ledger: Ledger, sides: np.ndarray[Any, Any], threshold: float) -> tuple[Near, int]:
    """Look for near-duplicates on two sides afresh, by other sketches; those that are found are joined.

    Returns the clusters with them, and how many pairs were found.
    """
    store = ledger.store
    train, validation, test = (ledger.left & (sides == place) for place in range(len(SIDES)))
    crossed = [
        pair
        for held_out, others in ((test | validation, train), (test, validation))
        for pair in second_look(_second_sketches(store), held_out, others, _comparer(store), threshold)
    ]
    leaders = near.leaders.copy()
    for one in crossed:
        first, second = sorted((int(leaders[one.first]), int(leaders[one.second])))
        leaders[leaders == second] = first
    return Near(leaders, near.report, near.contradicting), len(crossed)


def _second_sketches(store: Store) -> Iterator[Hashes]:
    """One band hash of every row after the other, of the sketches that the clusters were not made of."""
    return (np.concatenate(list(store.band(BANDS + band))) for band in range(BANDS))


def _text_of(store: Store) -> Callable[[int], str]:
    return lambda row: row_text(store.example(row))


def _comparer(store: Store) -> Comparer:
    return Comparer(_text_of(store))


class _Bands:
    """The sketches in the parts, as ``clusters`` reads them."""

    def __init__(self, store: Store) -> None:
        self.rows = store.rows
        self.bands = BANDS
        self.column = store.band


def _among(found: Clusters, ledger: Ledger) -> Clusters:
    """The clusters without rows that are gone; none of those leads, because an equal row is before it."""
    leaders = np.where(ledger.left, found.leaders, np.arange(len(found.leaders)))
    return Clusters(leaders, found.similarity, found.comparisons)


def _choices(store: Store) -> np.ndarray[Any, Any]:
    """What decides which row of a cluster stays."""
    facts = np.zeros(store.rows, CHOICE)
    facts["given"] = np.array([GIVEN[side] for side in SIDES], np.uint8)[store.sides]
    for name in ("repairs", "redactions", "words", "synthetic"):
        facts[name] = store.facts[name]
    facts["says"] = store.facts["label"] ^ store.facts["task"]  # tasks have no duplicates of each other
    return facts


def _said(store: Store, ledger: Ledger) -> Iterator[tuple[Rows, Said]]:
    """What the rows that are left ask and say, part by part."""
    for start, end in zip(store.starts[:-1].tolist(), store.starts[1:].tolist(), strict=True):
        rows = start + np.flatnonzero(ledger.left[start:end])
        facts = store.facts[rows]
        yield rows, Said(np.ascontiguousarray(facts["question"]), np.array(facts["says"]))


def _drop(ledger: Ledger, lost: np.ndarray[Any, Any]) -> None:
    kept = {row: (other, similarity) for row, other, similarity, _ in lost.tolist()}

    def detail(store: Store, row: int) -> str:
        other, similarity = kept[row]
        return f"like {store.where(other)} ({similarity:.2f})"

    reasons = [REASONS[reason] for reason in lost["reason"].tolist()]
    ledger.drop("near_duplicates", lost["row"].copy(), reasons, detail)


def contradicting_rows(near: Near, store: Store) -> Iterator[dict[str, Any]]:
    """For each question with answers that do not agree: how many rows and answers, and their places."""
    for one in near.contradicting:
        yield {"rows": one.count, "answers": one.answers, "places": [store.where(row) for row in one.rows]}
