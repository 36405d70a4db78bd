"""Column mapping: any row becomes a row of a known format.

{"prompt": "instruction", "completion": "instances.0.output"}          dotted paths, list indices allowed
{"prompt": "{instruction}\\n\\n{instances.0.input}", "completion": …}    a template; {{ and }} write braces
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tunewright.core.errors import ConfigError
from tunewright.core.names import nearest
from tunewright.data.problems import BadRow
from tunewright.data.strict import shown

TARGETS = (
    *("prompt", "completion", "system", "input", "text", "label", "score"),
    *("chosen", "rejected", "margin", "chosen_score", "rejected_score", "messages"),
    *("answers", "scores", "ranks", "fields", "tools", "group", "id"),
)
OPTIONAL = frozenset({"system", "input", "tools", "group", "id"})
_HOLE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
MISSING = object()
Row = Mapping[str, Any]


def column_map(columns: Mapping[str, str]) -> Callable[[Row], dict[str, Any]]:
    """A function that renames a raw row; raises ``ConfigError`` for an unknown target."""
    for target in columns:
        if target not in TARGETS:
            raise ConfigError(f"columns: unknown target {target!r}. {nearest(target, TARGETS)}")
    getters = {target: _getter(path) for target, path in columns.items()}

    def mapped(row: Row) -> dict[str, Any]:
        result = {}
        for target, get in getters.items():
            value = get(row)
            if value is not MISSING:
                result[target] = value
            elif target not in OPTIONAL:
                raise BadRow(
                    "missing_column", f"no {columns[target]!r} ({target}); the row has {_names(row)}"
                )
        return result

    return mapped


def columns_used(columns: Mapping[str, str]) -> frozenset[str]:
    """The top-level keys of a row that a mapping reads."""
    used: set[str] = set()
    for path in columns.values():
        holes = [m[1] for m in _HOLE.finditer(path) if m[1]] if "{" in path else [path]
        used |= {hole.strip().split(".")[0] for hole in holes} | {hole.strip() for hole in holes}
    return frozenset(used)


def columns_renamed(columns: Mapping[str, str]) -> frozenset[str]:
    """The keys of a row that a mapping gives another name, as a whole."""
    return frozenset(path for path in columns.values() if "{" not in path)


def lookup(row: Row, path: str) -> Any:
    """The value at a dotted path, or ``MISSING``. A key that holds dots itself is tried first."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def paths_of(row: Row) -> list[str]:
    """The keys of a row, and dotted paths to the keys of the objects in it."""
    inner = [f"{key}.{name}" for key, value in row.items() if isinstance(value, Mapping) for name in value]
    return [*row, *inner]


def _getter(path: str) -> Callable[[Row], Any]:
    if "{" not in path:
        return lambda row: lookup(row, path)

    def fill(row: Row) -> Any:
        return _HOLE.sub(lambda hole: _hole(row, path, hole), path).strip()

    return fill


def _hole(row: Row, template: str, hole: re.Match[str]) -> str:
    if hole[1] is None:
        return hole[0][0]
    value = lookup(row, hole[1].strip())
    if value is MISSING:
        raise BadRow("missing_column", f"no {shown(hole[1])} for the template; the row has {_names(row)}")
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        raise BadRow("wrong_type", f"{shown(hole[1])} is {kind(value)}; a template needs text or a number")
    return str(value)


def _names(row: Row) -> str:
    return ", ".join(shown(name) for name in list(row)[:8]) or "no keys"


def kind(value: Any) -> str:
    """The JSON name of a value's type, for messages."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
