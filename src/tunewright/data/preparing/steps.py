"""From settings to the steps for single rows: the one place that knows every step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tunewright.data.columns import MISSING, lookup
from tunewright.data.contamination.benchmarks import index_of
from tunewright.data.contamination.index import Index
from tunewright.data.preparing.settings import CompareSettings, PrepareSettings
from tunewright.data.preparing.stage import Stage
from tunewright.data.redact.keys import redaction_key
from tunewright.data.redact.redactor import Redactor
from tunewright.data.split_time import seconds_of


def stage_of(settings: PrepareSettings) -> Stage:
    """The steps that ``settings`` switch on."""
    return Stage(
        redact=_redactor(settings),
        clean=settings.clean,
        near=settings.compare.near != "off",
        index=_index(settings.compare),
        time=_time_under(settings.split.time) if settings.split.time else None,
    )


def _redactor(settings: PrepareSettings) -> Redactor | None:
    """What takes personal data out, with the user's key and what people have decided."""
    if settings.redact is None or not settings.redact.active:
        return None
    return Redactor(settings.redact, redaction_key(settings.redact.key_file), settings.decided())


def _index(settings: CompareSettings) -> Index | None:
    if not settings.looks_for:
        return None
    return index_of(settings.benchmarks, settings.known != "off")


def _time_under(key: str) -> Callable[[dict[str, Any]], float]:
    """Seconds since 1970 of what stands under ``key`` (a dotted path) of a row; NaN without a time."""

    def time_of(row: dict[str, Any]) -> float:
        value = lookup(row, key)
        return math.nan if value is MISSING else seconds_of(value)

    return time_of
