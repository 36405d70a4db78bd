"""Public test sets that come with the program, as hashes: names, sources and licences stand in a table.

``tools/make_benchmark_index.py`` makes them. At most ``MOST`` hashes of an item are kept, so that the
coverage of a long item is an estimate.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tunewright.data.contamination.index import Index

FOLDER = Path(__file__).parent / "known"
TABLE = "table.json"
MOST = 5


@cache
def known() -> Index:
    """All bundled test sets in one index."""
    return Index.merged([Index.load(FOLDER / entry["file"]) for entry in known_table()])


def known_table() -> list[dict[str, Any]]:
    """What each bundled test set is: ``name``, ``file``, ``items``, ``source``, ``licence``, ``sha256`` …"""
    return list(json.loads((FOLDER / TABLE).read_text(encoding="utf-8")))
