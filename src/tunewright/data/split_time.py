"""A split by time: the latest rows test, those before them validate; nothing is learnt from the future.

A group goes where its latest row goes, so what is asked again later is never trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.core.errors import DataError
from tunewright.data.dedupe.union import Rows
from tunewright.data.split import SIDES

SERVED: tuple[str, ...] = SIDES[::-1]
PLACES: dict[str, int] = {side: place for place, side in enumerate(SIDES)}
YEARS = range(1900, 2100)  # as seconds they all lie in the first hour of 1970
MILLISECONDS = 1e11  # numbers from here on are milliseconds: as seconds they lie beyond the year 5000


def seconds_of(value: Any) -> float:
    """Seconds since 1970 of an ISO 8601 date or time (UTC if no zone is given), of a year, or of a number of
    seconds or milliseconds; NaN for anything else."""
    if isinstance(value, bool) or value is None:
        return math.nan
    if isinstance(value, (int, float)):
        if value in YEARS:
            return datetime(int(value), 1, 1, tzinfo=UTC).timestamp()
        return float(value) / (1000 if abs(value) >= MILLISECONDS else 1)
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).timestamp()
    text = str(value).strip()
    try:
        return seconds_of(float(text))
    except ValueError:
        pass
    try:
        return seconds_of(datetime.fromisoformat(text))
    except ValueError:
        return math.nan


def deal_by_time(
    groups: Rows, times: NDArray[np.float64], shares: Mapping[Any, float]
) -> tuple[NDArray[np.int8], list[str]]:
    """The side of every row, as its place in ``SIDES``; ``shares`` are of rows, the latest first to test.

    Raises ``DataError`` if there are fewer groups than sides that were asked for.
    """
    latest = np.full(len(groups), -np.inf)
    np.maximum.at(latest, groups, times)
    leaders, sizes = np.unique(groups, return_counts=True)
    order = np.lexsort((leaders, -latest[leaders]))
    wanted = [side for side in SERVED if shares[side] > 0]
    if len(leaders) < len(wanted):
        raise DataError(f"split by time: {len(leaders)} groups of rows are too few for {len(wanted)} sides")
    sides = np.full(len(groups), PLACES["train"], np.int8)
    taken = 0
    for number, side in enumerate(wanted[:-1]):
        need, rows = shares[side] * len(groups), 0
        reserve = len(wanted) - 1 - number  # every later side must get a group, too
        while taken < len(order) - reserve and (rows == 0 or rows + sizes[order[taken]] / 2 <= need):
            sides[leaders[order[taken]]] = PLACES[side]
            rows += int(sizes[order[taken]])
            taken += 1
    result: NDArray[np.int8] = sides[groups]
    return result, _said(result, times, wanted)


def _said(sides: NDArray[np.int8], times: NDArray[np.float64], wanted: list[str]) -> list[str]:
    """From when to when each side goes."""
    notes = []
    for side in reversed(wanted):
        own = times[sides == PLACES[side]]
        first, last = (datetime.fromtimestamp(float(t), UTC).isoformat() for t in (own.min(), own.max()))
        notes.append(f"{side}: {len(own)} rows from {first} to {last}")
    return notes
