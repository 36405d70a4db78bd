"""Rows that hold items of benchmarks: named, and left out of training where that is asked for."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from tunewright.data.preparing.ledger import Ledger
from tunewright.data.preparing.settings import CompareSettings
from tunewright.data.split import SIDES

PLACES = 20  # rows that are named for each benchmark in the receipt


def drop_contaminated(ledger: Ledger, settings: CompareSettings) -> dict[str, Any]:
    """Drop training rows that hold items of the user's benchmarks (and of known ones, if so set).

    Returns for each benchmark how many rows hold items of it, which items, and where the first rows stand.
    """
    store = ledger.store
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    worst: dict[int, dict[str, Any]] = {}
    for start, (_, part) in zip(store.starts.tolist(), store.told(), strict=False):
        for match in part.matches:
            row = start + match["row"]
            if not ledger.left[row] or SIDES[store.sides[row]] != "train":
                continue
            found[match["benchmark"]].append({**match, "row": row})
            named = match["benchmark"] in settings.benchmarks
            if (named or settings.known == "drop") and match["coverage"] > worst.get(row, {"coverage": 0})[
                "coverage"
            ]:
                worst[row] = match
    rows = sorted(worst)

    def detail(_: Any, row: int) -> str:
        match = worst[row]
        return f"item {match['item']} of {match['benchmark']} ({match['coverage']:.2f} of it)"

    reasons = [
        "in_benchmark" if worst[row]["benchmark"] in settings.benchmarks else "in_public_set" for row in rows
    ]
    report = {name: _described(ledger, matches) for name, matches in sorted(found.items())}
    ledger.drop("contamination", np.array(rows, np.int64), reasons, detail)
    return report


def _described(ledger: Ledger, matches: list[dict[str, Any]]) -> dict[str, Any]:
    rows = list(dict.fromkeys(match["row"] for match in matches))
    return {
        "rows": len(rows),
        "items": len({match["item"] for match in matches}),
        "first": [
            {"place": ledger.store.where(m["row"]), "item": m["item"], "coverage": round(m["coverage"], 4)}
            for m in matches[:PLACES]
        ],
    }
