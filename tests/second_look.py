"""Looking for near-duplicates on two sides, on rows given as (number, text)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunewright.data.dedupe.clusters import THRESHOLD
from tunewright.data.dedupe.crossing import Crossing, second_look
from tunewright.data.dedupe.similar import Comparer
from tunewright.data.dedupe.sketch import OTHER_SEED, sketch

Rows = Sequence[tuple[int, str]]


def recheck(held_out: Rows, train: Rows, threshold: float = THRESHOLD) -> list[Crossing]:
    """The rows of ``train`` that are near one of ``held_out``."""
    rows = [*train, *held_out]
    texts = [text for _, text in rows]
    held = np.arange(len(rows)) >= len(train)
    columns = iter(sketch(texts, (OTHER_SEED,)).T)
    found = second_look(columns, held, ~held, Comparer(texts.__getitem__), threshold)
    return [Crossing(rows[one.first][0], rows[one.second][0], one.similarity) for one in found]
