"""Raw rows: what every container gives, and the two that are read line by line (JSONL and text).

A raw row is a value that still has to be understood, or a ``BadRow``. Facts about the whole file (a
byte-order mark, CRLF, blank lines) are counted in ``Notes``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from tunewright.data.container import BOM
from tunewright.data.problems import BadRow
from tunewright.data.strict import CONTROL, MAX_BYTES, parse_json, without_controls

TEXT_PIECE = 2_000
TEXT_LIMIT = 1_000_000


@dataclass(slots=True)
class Notes:
    """What happened how often in a file: reason -> [first line, count], and the same for ignored keys."""

    facts: dict[str, list[int]] = field(default_factory=dict)
    ignored: dict[str, list[int]] = field(default_factory=dict)

    def count(self, reason: str, line: int) -> None:
        self.facts.setdefault(reason, [line, 0])[1] += 1

    def ignore(self, key: str, line: int) -> None:
        self.ignored.setdefault(key, [line, 0])[1] += 1

    def add(self, other: Notes) -> None:
        """Put in what was noted of later rows."""
        for own, more in ((self.facts, other.facts), (self.ignored, other.ignored)):
            for name, (line, count) in more.items():
                own.setdefault(name, [line, 0])[1] += count


class Raw(NamedTuple):
    """A row as it stands in the file; ``controls`` characters were removed, ``size`` is roughly its bytes."""

    line: int
    value: Any
    controls: int = 0
    size: int = 0


def lines(stream: IO[bytes], notes: Notes) -> Iterator[tuple[int, bytes | None]]:
    """``(number, line)``; ``None`` for a line over ``MAX_BYTES``, which is skipped in pieces."""
    number = 0
    while line := stream.readline(MAX_BYTES + 2):
        number += 1
        if number == 1 and line.startswith(BOM):
            notes.count("bom", 1)
            line = line[len(BOM) :]
        if line.endswith(b"\r\n"):
            notes.count("crlf", number)
        elif len(line) > MAX_BYTES and not line.endswith(b"\n"):
            while (rest := stream.readline(MAX_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, None
            continue
        yield number, line


def too_long(line: int) -> Raw:
    return Raw(line, BadRow("over_long", f"more than {MAX_BYTES:,} bytes without a line end"))


def json_row(line: int, raw: bytes) -> Raw:
    try:
        value = parse_json(raw)
    except BadRow as bad:
        return Raw(line, bad)
    # A control character can stand in JSON only as one of these escapes, except U+007F.
    escaped = b"\\" in raw and any(mark in raw for mark in (b"\\u00", b"\\b", b"\\f"))
    if escaped or b"\x7f" in raw:
        value, controls = without_controls(value)
        return Raw(line, value, controls, len(raw))
    return Raw(line, value, 0, len(raw))


def table_row(line: int, row: dict[str, Any]) -> Raw:
    text = "".join(v for v in row.values() if isinstance(v, str))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) - 0xDC00
        return Raw(line, BadRow("invalid_utf8", f"byte {byte:#04x} in the row that starts here"))
    value, controls = without_controls(row) if CONTROL.search(text) else (row, 0)
    return Raw(line, value, controls, len(text))


def jsonl_rows(stream: IO[bytes], notes: Notes) -> Iterator[Raw]:
    for number, line in lines(stream, notes):
        if line is None:
            yield too_long(number)
        elif line.isspace():
            notes.count("blank_lines", number)
        else:
            yield json_row(number, line)


def text_rows(stream: IO[bytes], notes: Notes) -> Iterator[Raw]:
    """Whole paragraphs: a row ends at a blank line after ``TEXT_PIECE`` characters or at a form feed."""
    piece: list[tuple[int, str]] = []
    size = 0
    for number, line in lines(stream, notes):
        text = _decoded(number, line)
        blank = isinstance(text, str) and not text.strip()
        cut = isinstance(text, Raw) or text.startswith("\f") or (blank and size >= TEXT_PIECE)
        if cut or size >= TEXT_LIMIT:
            yield from _piece(piece)
            piece, size = [], 0
        if isinstance(text, Raw):
            yield text
        elif piece or not blank:
            piece.append((number, text))
            size += len(text)
    yield from _piece(piece)


def _decoded(number: int, line: bytes | None) -> str | Raw:
    if line is None:
        return too_long(number)
    try:
        return line.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        return Raw(
            number,
            BadRow("invalid_utf8", f"byte {line[error.start]:#04x} at offset {error.start} of the line"),
        )


def _piece(piece: list[tuple[int, str]]) -> Iterator[Raw]:
    text = "".join(text for _, text in piece).strip("\r\n\f")
    if text.strip():
        yield table_row(piece[0][0], {"text": text})
