"""Which container a file is (JSONL, JSON, CSV, Parquet, text), told from its content; safe opening."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, cast

import orjson

from tunewright.core.errors import DataError

Container = Literal["jsonl", "json", "csv", "parquet", "text"]
BOM = b"\xef\xbb\xbf"
DELIMITERS = (",", "\t", ";", "|")
HEAD_BYTES = 2**18
MAX_RATIO = 200
FREE_BYTES = 64 * 2**20


def container_of(path: Path) -> Container:
    """The container of ``path``; raises ``DataError`` if it is missing, empty or of no readable kind."""
    with opened(path) as stream:
        head = stream.read(HEAD_BYTES)
    if not head.removeprefix(BOM).strip():
        raise DataError(f"{path}: the file is empty; give a file with at least one row")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: the file is UTF-16; save it as UTF-8")
    if head[:4096].count(0) > 10 and not _looks_json(head):
        raise DataError(f"{path}: the file is binary; give JSONL, JSON, CSV, Parquet or text")
    return _of_text(path, head.removeprefix(BOM))


def _of_text(path: Path, head: bytes) -> Container:
    suffixes = [s.lower() for s in path.suffixes]
    suffix = next((s for s in reversed(suffixes) if s != ".gz"), "")
    if _looks_json(head):
        found = _of_json(head, suffix)
        if found:
            return found
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    if suffix == ".json":
        raise DataError(f"{path}: the file is named .json but starts with neither {{ nor [; rename it")
    if suffix in (".csv", ".tsv"):
        return "csv"
    if suffix in (".txt", ".md", ".text"):
        return "text"
    return "csv" if _looks_csv(head) else "text"


def _looks_json(head: bytes) -> bool:
    return head.removeprefix(BOM).lstrip()[:1] in (b"{", b"[")


def _of_json(head: bytes, suffix: str) -> Container | None:
    """JSONL where a line is a whole object, JSON where a value goes over lines, ``None`` for plain text."""
    lines = [line for line in head.splitlines() if line.strip()]
    objects = [_is_object(line) for line in lines[:2]]
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    opens_array = lines[0].lstrip()[:1] == b"[" and not _is_json(lines[0])
    if len(lines) > 1 and any(objects) and not opens_array:
        return "jsonl"
    if objects[0]:
        return "json" if wrapped_rows(orjson.loads(lines[0])) else "jsonl"
    plain = suffix in (".txt", ".md", ".text", ".csv", ".tsv")
    return None if plain else "json"


def _is_object(line: bytes) -> bool:
    return line.lstrip()[:1] == b"{" and _is_json(line)


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def wrapped_rows(value: object) -> str | None:
    """The key of the one array of objects in ``value`` (``data`` …); ``None`` if it is a row itself."""
    if not isinstance(value, dict):
        return None
    arrays = [k for k, v in value.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
    turns = ("messages", "conversations", "chosen", "rejected", "prompt", "completion")
    return arrays[0] if len(arrays) == 1 and arrays[0] not in turns else None


def _looks_csv(head: bytes) -> bool:
    """Two lines with the same number (two or more) of fields, and names in the first."""
    lines = head.decode("utf-8", "replace").splitlines()[:2]
    if len(lines) < 2:
        return False
    mark = delimiter_of(lines[0])
    first, second = (next(csv.reader([line], delimiter=mark), []) for line in lines)
    names = all(name.strip() and len(name) <= 40 and not name.strip().endswith(".") for name in first)
    return len(first) == len(second) >= 2 and names


def delimiter_of(header: str) -> str:
    """The delimiter that divides the header of a table into the most columns."""
    return max(DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open for reading, through gzip where the content is gzip; every failure is a ``DataError``."""
    try:
        with path.open("rb", buffering=2**20) as raw:
            magic = raw.read(2)
            raw.seek(0)
            if magic == b"\x1f\x8b":
                source = _Bounded(gzip.GzipFile(fileobj=raw), path)
                yield cast(IO[bytes], io.BufferedReader(source, 2**20))
            else:
                yield raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: the gzip data is damaged ({error}); compress the file again") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path}: cannot be read ({reason}); check the path and its permissions") from None


class _Bounded(io.RawIOBase):
    """A decompressed stream that refuses to grow beyond ``MAX_RATIO`` times its file."""

    def __init__(self, stream: gzip.GzipFile, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._left = max(FREE_BYTES, MAX_RATIO * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self._stream.read(len(view))
        self._left -= len(data)
        if self._left < 0:
            raise DataError(
                f"{self._path}: the gzip data grows more than {MAX_RATIO}-fold (a decompression bomb?); "
                "decompress it yourself if you trust it"
            )
        view[: len(data)] = data
        return len(data)
