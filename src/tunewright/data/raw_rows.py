"""The rows of any file, whatever its container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tunewright.data.container import Container, opened
from tunewright.data.json_rows import json_rows
from tunewright.data.rows import Notes, Raw, jsonl_rows, text_rows
from tunewright.data.table_rows import csv_rows, parquet_rows


def raw_rows(path: Path, container: Container, notes: Notes) -> Iterator[Raw]:
    """The rows of a file in order; a row that cannot be read is a ``Raw`` whose value is a ``BadRow``."""
    if container == "parquet":
        yield from parquet_rows(path)
        return
    with opened(path) as stream:
        if container == "csv":
            yield from csv_rows(stream, notes, path)
        else:
            readers = {"jsonl": jsonl_rows, "json": json_rows, "text": text_rows}
            yield from readers[container](stream, notes)
