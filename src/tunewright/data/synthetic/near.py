"""Near-duplicates among short texts, found as those among rows are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from tunewright.core.records import Text
from tunewright.data.dedupe.clusters import Bands, InMemory, clusters
from tunewright.data.dedupe.sketch import row_text, sketch


def near_texts(texts: Sequence[str]) -> list[int]:
    """For each text the index of the first of its cluster; its own where it stands alone."""
    plain = [row_text(Text(text)) for text in texts]
    bands = cast(Bands, InMemory(sketch(plain)))
    leaders: list[int] = clusters(bands, plain.__getitem__).leaders.tolist()
    return leaders
