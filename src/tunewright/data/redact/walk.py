"""The strings of a row, each with its path; and the row again with some of them replaced."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

MIN_DIGITS = 9  # shorter integers are counts
# Keys that say what stands under them, in the words that the recognisers know.
_LABELS = re.compile(
    r"phone|mobile|cell|fax|(?:^|_)tel(?:_|$)|ssn|social_?security|birth|(?:^|_)dob(?:_|$)|passport|licen[cs]e|iban"
    r"|card|(?:^|_)ip(?:_|$)|password|passwd|secret|token|api_?key|e?_?mail|address|nhs|tax_?id|pesel|bsn"
)
_NAME_LABEL = re.compile(
    r"(?:full|first|last|given|family|customer|patient|user|client|contact)_?name$|^(?:patient|surname)$"
)


class Leaf(NamedTuple):
    """One string of a row (or an integer as text), its path, and words for what the key says, or nothing."""

    path: str
    text: str
    label: str
    number: bool = False


def leaves(row: Mapping[str, Any], wanted: Callable[[str], bool]) -> Iterator[Leaf]:
    """All strings, and integers of ``MIN_DIGITS`` digits or more, below the wanted keys of a row."""
    for key, value in row.items():
        if wanted(key):
            yield from _below(value, key, key)


def _below(value: Any, path: str, key: str) -> Iterator[Leaf]:
    if isinstance(value, str):
        if value:
            yield Leaf(path, value, _label(key))
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _below(inner, f"{path}.{name}", str(name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _below(inner, f"{path}[{number}]", key)
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10 ** (MIN_DIGITS - 1):
        yield Leaf(path, str(value), _label(key), number=True)


@lru_cache(maxsize=4096)  # rows have the same few keys
def _label(key: str) -> str:
    low = key.lower()
    if _NAME_LABEL.search(low):
        return "name: "
    if _LABELS.search(low):
        return low.replace("_", " ") + ": "
    return ""


def replaced(row: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The row with the leaves of ``new`` (path -> value) in place of its own; a copy."""
    return {key: _with(value, key, new) for key, value in row.items()} if new else dict(row)


def _with(value: Any, path: str, new: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {name: _with(inner, f"{path}.{name}", new) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with(inner, f"{path}[{number}]", new) for number, inner in enumerate(value)]
    return new.get(path, value)


def at_path(row: Mapping[str, Any], path: str) -> str | None:
    """The leaf that stands at ``path``, as text; ``None`` if there is none."""
    for leaf in leaves(row, lambda key: path == key or path.startswith((f"{key}.", f"{key}["))):
        if leaf.path == path:
            return leaf.text
    return None
