"""Rows of tables: CSV (any of four delimiters, with a header) and Parquet. Streamed."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tunewright.core.errors import DataError
from tunewright.data.container import delimiter_of
from tunewright.data.problems import BadRow
from tunewright.data.rows import Notes, Raw, lines, table_row, too_long
from tunewright.data.strict import MAX_BYTES, without_controls

TABLE_BATCH = 512


def csv_rows(stream: IO[bytes], notes: Notes, path: Path) -> Iterator[Raw]:
    """CSV with a header. Bytes that are not UTF-8 travel as surrogates, so only their row is rejected."""
    long_lines: list[int] = []

    def decoded() -> Iterator[str]:
        for number, line in lines(stream, notes):
            if line is None:
                long_lines.append(number)
            yield "\n" if line is None else line.decode("utf-8", "surrogateescape")

    text = decoded()
    first = next(text, "")
    _refuse_broken(first, path)
    csv.field_size_limit(MAX_BYTES)
    mark = delimiter_of(first)
    header = [name.strip() for name in next(csv.reader([first], delimiter=mark), [])]
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}:1: the column {twice!r} stands twice in the header; rename one of the two")
    reader = csv.reader(text, delimiter=mark, strict=True)
    yield from _records(reader, header, long_lines, notes)


def _refuse_broken(header: str, path: Path) -> None:
    """Raise ``DataError`` for a header with bytes that are not UTF-8: no column has a name without it."""
    try:
        header.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(header[error.start]) - 0xDC00
        raise DataError(
            f"{path}:1: the header is not UTF-8 (byte {byte:#04x}); save the file as UTF-8"
        ) from None


def _records(reader: Any, header: list[str], long_lines: list[int], notes: Notes) -> Iterator[Raw]:
    while True:
        line = reader.line_num + 2
        try:
            cells = next(reader, None)
        except csv.Error as error:
            long_lines.clear()
            yield Raw(line, BadRow("bad_csv", f"{error}, in lines {line} to {reader.line_num + 1}"))
            continue
        if cells is None:
            return
        if long_lines:
            long_lines.clear()
            yield too_long(line)
        elif not cells:
            notes.count("blank_lines", line)
        elif len(cells) != len(header):
            yield Raw(line, BadRow("bad_csv", f"{len(cells)} fields, but the header has {len(header)}"))
        else:
            yield table_row(line, dict(zip(header, cells, strict=True)))


def parquet_rows(path: Path) -> Iterator[Raw]:
    number = 0
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(TABLE_BATCH):
                for row in _dicts(batch):
                    number += 1
                    yield Raw(number, row) if isinstance(row, BadRow) else _parquet_row(number, row)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not readable as Parquet after row {number} ({error}); write it again"
        ) from None


def _dicts(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | BadRow]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield BadRow("invalid_utf8", f"byte {error.object[error.start]:#04x} at offset {error.start}")


def _parquet_row(number: int, row: dict[str, Any]) -> Raw:
    """NaN, which tables use for a missing number, counts as missing."""
    row = {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in row.items()}
    return Raw(number, *without_controls(row))
