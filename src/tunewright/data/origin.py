"""Where a row says it comes from: the ``meta`` that preparing writes, ids and groups."""

from __future__ import annotations

from typing import Any, TypeGuard

from tunewright.data.columns import kind
from tunewright.data.problems import BadRow

_TEXTS = ("task", "synthetic", "mixed")
_OWN = frozenset({"source", "line", "id", "group", *_TEXTS})


def is_own_meta(given: Any) -> TypeGuard[dict[str, Any]]:
    """True for the ``meta`` that preparing writes."""
    if not isinstance(given, dict) or not {"source", "line"} <= given.keys() <= _OWN:
        return False
    return (
        isinstance(given["source"], str)
        and type(given["line"]) is int
        and given["line"] >= 0
        and all(isinstance(given.get(key, ""), str) for key in _TEXTS)
    )


def task_of(row: dict[str, Any]) -> str | None:
    """The task that preparing noted in a row, in a run that learns several."""
    given = row.get("meta")
    return given.get("task") if is_own_meta(given) else None


def name_of(value: Any, key: str) -> str | None:
    """An id or a group as text; raises ``BadRow`` for what is neither text nor a number."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRow("wrong_type", f"{key} is {kind(value)}, not a text or a number")
    return str(value)
