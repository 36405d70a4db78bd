"""Near-duplicates among rows in memory, and among short texts."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.core.records import Example, Text
from tunewright.data.dedupe.clusters import InMemory, clusters
from tunewright.data.dedupe.sketch import row_text, sketch


def near_texts(texts: Sequence[str]) -> list[int]:
    """For each text the index of the first of its cluster; its own where it stands alone."""
    return near_rows([Text(text) for text in texts])


def near_rows(rows: Sequence[Example]) -> list[int]:
    """For each row the index of the first of its cluster; its own where it stands alone."""
    plain = [row_text(row) for row in rows]
    leaders: list[int] = clusters(InMemory(sketch(plain)), plain.__getitem__).leaders.tolist()
    return leaders
