"""JSON without surprises: what other readers silently accept (duplicate keys, NaN, depth) is an error here.

``parse_json`` has a fast path (orjson) that is taken only where a cheap and exact count proves that no key
was lost; every other row goes through the standard library with hooks. Both give the same values.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Literal

import orjson

from tunewright.data.problems import BadRow

MAX_DEPTH = 64
MAX_BYTES = 8 * 2**20
_BIG = float(2**63)
_SPACED_COLON = re.compile(rb'"[ \t\r\n]+:')
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TOKEN = re.compile(_STRING + rb'|[\[\]{},"]', re.DOTALL)
_BRACKET = re.compile(_STRING + rb"|[\[\]{}]", re.DOTALL)
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def parse_json(raw: bytes) -> Any:
    """The value of one JSON text; raises ``BadRow`` with the reason if it is anything but clean JSON."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _exact(raw)
    return value if _nothing_lost(raw, value) else _exact(raw)


def _nothing_lost(raw: bytes, value: Any) -> bool:
    r"""True if ``value`` holds every key of ``raw``, is not too deep, and has no rounded integer.

    In valid JSON ``":`` ends a key, unless the quote is an escaped one inside a string (``\":``). So, without
    ``" :`` and ``\\":``, the keys written are count(``":``) - count(``\":``); parsing can only lose some.
    """
    if _SPACED_COLON.search(raw) or (b"\\" in raw and b'\\\\":' in raw):
        return False
    written = raw.count(b'":') - raw.count(b'\\":')
    parsed = depth = 0
    level = [value]
    while level:
        depth += 1
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                parsed += len(item)
                item = item.values()
            elif kind is not list:
                continue
            for child in item:
                kind = type(child)
                if kind is dict or kind is list:
                    below.append(child)
                elif kind is float and not -_BIG < child < _BIG:
                    return False
        level = below
    return parsed == written and depth <= MAX_DEPTH


def _exact(raw: bytes) -> Any:
    """The slow path: names the first thing that is wrong."""
    try:
        text = raw.decode("utf-8").rstrip()
    except UnicodeDecodeError as error:
        raise BadRow(
            "invalid_utf8", f"byte {raw[error.start]:#04x} at offset {error.start} of the row"
        ) from None
    depth = nesting(raw)
    if depth > MAX_DEPTH:
        raise BadRow("too_deep", f"{depth} levels of nesting, at most {MAX_DEPTH} are read")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadRow("broken_json", f"{error.msg.removesuffix(' at')} at column {error.pos + 1}") from None
    if has_surrogate(value):
        raise BadRow("lone_surrogate", "an escape \\ud800 … \\udfff stands alone")
    return value


def _byte(raw: bytes, error: UnicodeDecodeError) -> str:
    return f"byte {raw[error.start]:#04x} at offset {error.start} of the row"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise BadRow("duplicate_key", f"the key {shown(twice)} stands twice in one object")


def _constant(name: str) -> Any:
    raise BadRow("not_finite", f"the value {name}")


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise BadRow("big_number", f"an integer of {len(digits.lstrip('-'))} digits")
    return int(digits)


def _number(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise BadRow("not_finite", "a number too large for a 64-bit float")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_constant, parse_int=_integer, parse_float=_number
)


def nesting(raw: bytes) -> int:
    """Depth of brackets outside strings, counted without recursion."""
    depth = deepest = 0
    for match in _BRACKET.finditer(raw):
        mark = match[0]
        if mark in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif mark in (b"]", b"}"):
            depth -= 1
    return deepest


def elements(raw: bytes, start: int) -> Iterator[tuple[int, int, Literal["row", "end", "cut"]]]:
    """``(begin, end, "row")`` of each element of the array (or object) that opens at ``raw[start]``.

    The last item is ``"end"`` with the position after the closing bracket, or ``"cut"`` with what is left
    where the file ends first.
    """
    depth, begin = 0, start + 1
    for match in _TOKEN.finditer(raw, start):
        mark = match[0]
        if mark == b'"':
            break
        if mark in (b"[", b"{"):
            depth += 1
        elif mark in (b"]", b"}"):
            depth -= 1
            if depth == 0:
                if begin != start + 1 or raw[begin : match.start()].strip():
                    yield begin, match.start(), "row"
                yield match.end(), match.end(), "end"
                return
        elif mark == b"," and depth == 1:
            yield begin, match.start(), "row"
            begin = match.end()
    yield begin, len(raw), "cut"


def has_surrogate(value: Any) -> bool:
    """True if any string inside holds half of a surrogate pair, which UTF-8 cannot write."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def without_controls(value: Any) -> tuple[Any, int]:
    """``value`` without control characters (U+0000 to U+001F but tab, LF, CR; U+007F), and their number."""
    if isinstance(value, str):
        return CONTROL.subn("", value)
    if isinstance(value, dict):
        cleaned = {key: without_controls(item) for key, item in value.items()}
        return {key: item for key, (item, _) in cleaned.items()}, sum(n for _, n in cleaned.values())
    if isinstance(value, list):
        items = [without_controls(item) for item in value]
        return [item for item, _ in items], sum(n for _, n in items)
    return value, 0


def shown(name: object) -> str:
    """A key or a role as it may stand in a message: quoted and at most 40 characters."""
    text = str(name)
    return repr(text if len(text) <= 40 else text[:39] + "…")
