"""Rows of a JSON file: an array, or the one array of objects inside an object. Read whole, row by row.

Each element is cut out of the bytes before it is parsed, so that a broken row costs only itself and every row
has its line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import orjson

from tunewright.data.container import BOM, wrapped_rows
from tunewright.data.problems import BadRow
from tunewright.data.rows import Notes, Raw, json_row
from tunewright.data.strict import MAX_BYTES, elements, nesting


def json_rows(stream: IO[bytes], notes: Notes) -> Iterator[Raw]:
    data = stream.read()
    if data.startswith(BOM):
        notes.count("bom", 1)
        data = data[len(BOM) :]
    if b"\r\n" in data:
        notes.facts["crlf"] = [1 + data[: data.index(b"\r\n")].count(b"\n"), data.count(b"\r\n")]
    start = _array_start(data, notes)
    if start is None:
        yield json_row(1, data)
        return
    line, counted = 1, 0
    for begin, end, state in elements(data, start):
        raw = data[begin:end]
        begin += len(raw) - len(raw.lstrip())
        line, counted = line + data.count(b"\n", counted, begin), begin
        if state == "end":
            yield from _after_array(data, end, line)
        elif state == "cut":
            yield Raw(
                line, BadRow("broken_json", "the array is cut off here; nothing after this can be read")
            )
        elif end - begin > MAX_BYTES:
            yield Raw(line, BadRow("over_long", f"a row of {end - begin:,} bytes"))
        else:
            yield json_row(line, raw)


def _after_array(data: bytes, end: int, line: int) -> Iterator[Raw]:
    """A ``broken_json`` row if something stands behind a top-level array."""
    if data.lstrip()[:1] == b"[" and data[end:].strip():
        yield Raw(line, BadRow("broken_json", "text follows the end of the array"))


def _array_start(data: bytes, notes: Notes) -> int | None:
    """Where the array of rows opens: at the top, or as the one array of objects in the top object."""
    top = len(data) - len(data.lstrip())
    if data[top : top + 1] == b"[":
        return top
    if nesting(data) > 1000:
        return None
    try:
        key = wrapped_rows(orjson.loads(data))
    except orjson.JSONDecodeError:
        return None
    if key is None:
        return None
    members = dict(_members(data, top))
    for other in members.keys() - {key}:
        notes.ignore(other, 1)
    return members[key]


def _members(data: bytes, top: int) -> Iterator[tuple[str, int]]:
    """``(key, start of its value)`` of each member of the object that opens at ``data[top]``."""
    for begin, end, _ in elements(data, top):
        member = data[begin:end].lstrip()
        if member.startswith(b'"'):
            position = end - len(member)
            stop = 1
            while member[stop : stop + 1] != b'"':
                stop += 2 if member[stop : stop + 1] == b"\\" else 1
            colon = member.index(b":", stop)
            rest = member[colon + 1 :]
            yield orjson.loads(member[: stop + 1]), position + len(member) - len(rest.lstrip())
