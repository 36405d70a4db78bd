"""Clusters as a report without a word of their texts: how many, how large, where, how similar."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.data.dedupe.best import REASONS
from tunewright.data.dedupe.clusters import Clusters
from tunewright.data.dedupe.contradictions import Contradiction, Contradictions

SIZES = ((2, 2), (3, 5), (6, 20), (21, 100), (101, None))
TOP = 20  # clusters that are listed, largest first
PLACES = 10  # rows of each that are named
LARGE = 0.1  # share of all rows from which one cluster is a template rather than a repetition

Place = Callable[[int], str]


def cluster_report(found: Clusters, place: Place) -> dict[str, Any]:
    """Sizes of the clusters and the largest of them; ``place`` names a row as ``file:line``."""
    counts = np.bincount(found.leaders, minlength=len(found.leaders))
    leaders = np.flatnonzero(counts > 1)
    sizes = counts[leaders]
    top = leaders[np.lexsort((leaders, -sizes))][:TOP]
    return {
        "clusters": len(leaders),
        "rows_in_clusters": int(sizes.sum()),
        "sizes": {_range(low, high): _between(sizes, low, high) for low, high in SIZES},
        "largest": [_described(int(leader), found, place) for leader in top],
        "comparisons": found.comparisons,
        "notes": large_clusters(found),
    }


def large_clusters(found: Clusters) -> list[str]:
    """A sentence for each cluster that holds so many rows that a split may come out badly."""
    counts = np.bincount(found.leaders, minlength=len(found.leaders))
    floor = max(10, LARGE * len(found.leaders))
    return [
        f"{counts[leader]:,} of {len(found.leaders):,} rows are near-duplicates of each other: look whether"
        " they share a template; they stay on one side of the split"
        for leader in np.flatnonzero(counts > floor).tolist()
    ]


def contradiction_report(found: Contradictions, place: Place) -> dict[str, Any]:
    """Questions with answers that do not agree: the number of them, and the places of the first."""
    return {
        "questions": len(found.found),
        "rows": sum(one.count for one in found.found),
        "on_purpose": found.on_purpose,
        "first": _listed(found.found, place),
    }


def label_report(found: list[Contradiction], place: Place) -> dict[str, Any]:
    """Near-identical texts with different labels."""
    return {
        "clusters": len(found),
        "rows": sum(one.count for one in found),
        "first": _listed(found, place),
    }


def dropped_counts(lost: NDArray[np.void]) -> dict[str, int]:
    """Rows that went, by reason."""
    counts = np.bincount(lost["reason"], minlength=len(REASONS)).tolist()
    return {reason: count for reason, count in zip(REASONS, counts, strict=True) if count}


def _listed(found: Iterable[Contradiction], place: Place) -> list[dict[str, Any]]:
    return [
        {"rows": one.count, "answers": one.answers, "places": [place(row) for row in one.rows[:PLACES]]}
        for one in list(found)[:TOP]
    ]


def _described(leader: int, found: Clusters, place: Place) -> dict[str, Any]:
    rows = np.flatnonzero(found.leaders == leader)
    least = float(found.similarity[rows].min())
    return {
        "rows": len(rows),
        "least_similarity": round(least, 4),
        "places": [place(row) for row in rows[:PLACES].tolist()],
    }


def _range(low: int, high: int | None) -> str:
    return f"{low}" if low == high else f"{low}-{high}" if high else f"{low}+"


def _between(sizes: NDArray[np.int64], low: int, high: int | None) -> int:
    return int(((sizes >= low) & (sizes <= (high or sizes.max(initial=low)))).sum())
