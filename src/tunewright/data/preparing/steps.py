"""From settings to the steps for single rows: the one place that knows every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tunewright.data.columns import MISSING, lookup
from tunewright.data.preparing.settings import PrepareSettings
from tunewright.data.preparing.stage import Stage
from tunewright.data.split_time import seconds_of


def stage_of(settings: PrepareSettings) -> Stage:
    """The steps that ``settings`` switch on."""
    return Stage(time=_time_under(settings.split.time) if settings.split.time else None)


def _time_under(key: str) -> Callable[[dict[str, Any]], float]:
    """Seconds since 1970 of what stands under ``key`` (a dotted path) of a row; NaN without a time."""

    def time_of(row: dict[str, Any]) -> float:
        value = lookup(row, key)
        return math.nan if value is MISSING else seconds_of(value)

    return time_of
