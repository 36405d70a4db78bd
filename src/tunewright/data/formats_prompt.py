"""The format of rows that only ask: a prompt, and columns that rewards may read."""

from __future__ import annotations

import math
from typing import Any

from tunewright.core.records import Example, Meta, Prompt
from tunewright.data.columns import kind
from tunewright.data.formats_parts import OPENING, PROMPTS, TURNS, Row, is_turns, key_of, prompt_of, tools_of
from tunewright.data.messages import Repairs
from tunewright.data.problems import BadRow
from tunewright.data.strict import MAX_DEPTH, shown

OWN = ("tools", "id", "fields")  # never fields themselves


def prompt(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """A prompt that ends in a user or tool turn; every column that is no part of it becomes a field."""
    key = key_of(row, (*PROMPTS, *TURNS))
    turns = prompt_of(row, key, repairs)
    if turns[-1].role == "assistant":
        raise BadRow("prompt_answered", f"{key} ends in an assistant turn")
    if turns[-1].role not in ("user", "tool"):
        raise BadRow("no_question", f"{key} ends in a {turns[-1].role} turn")
    read = (key, *OWN, *(("system",) if is_turns(row, key) else OPENING))
    return Prompt(turns, _fields(row, read), meta, tools_of(row))


def _fields(row: Row, read: tuple[str, ...]) -> dict[str, Any]:
    """The columns that were not read, and the entries of the object ``fields``, where there is one."""
    columns = {key: value for key, value in row.items() if key not in read}
    given = row.get("fields")
    if given is not None and not isinstance(given, dict):
        raise BadRow("wrong_type", f"fields is {kind(given)}, not an object")
    for twice in columns.keys() & (given or {}).keys():
        raise BadRow("wrong_type", f"{shown(twice)} stands both in fields and in a column; keep one")
    return {key: _json(value, key, 3) for key, value in {**columns, **(given or {})}.items()}


def _json(value: Any, field: str, level: int) -> Any:
    """``value`` if a prepared row can hold it: tables may have dates, decimals and bytes, which JSON lacks.

    ``level`` is the nesting of ``value`` in that row, below the row itself and its ``fields``.
    """
    if isinstance(value, (dict, list, tuple)) and level > MAX_DEPTH:
        raise BadRow("too_deep", f"the field {shown(field)} is nested deeper than {MAX_DEPTH - 2} levels")
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _json(item, field, level + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(item, field, level + 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRow("not_finite", f"the field {shown(field)} holds {value}")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise BadRow("wrong_type", f"the field {shown(field)} holds {kind(value)}, which JSON cannot write")
