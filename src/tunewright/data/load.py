"""Files in, examples out: streaming, in file order, with every problem reported where it stands.

for item in read_examples("train.jsonl"):        # Example | Problem
data = load(["train.jsonl", "more.csv"])         # data.examples, data.problems, data.files
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from tunewright.core.errors import DataError
from tunewright.core.hashing import file_digest
from tunewright.core.records import Example, Meta
from tunewright.data.columns import (
    MISSING,
    column_map,
    columns_renamed,
    columns_used,
    kind,
    lookup,
    paths_of,
)
from tunewright.data.container import Container, container_of
from tunewright.data.messages import Repairs
from tunewright.data.origin import is_own_meta, name_of, task_of
from tunewright.data.problems import BadRow, Problem, problem
from tunewright.data.raw_rows import raw_rows
from tunewright.data.rows import Notes, Raw
from tunewright.data.schema import Format, advice, build, format_named, format_of
from tunewright.data.strict import parse_json, shown

HEAD_ROWS = 20
KEYS_SHOWN = 40  # keys that are not used and are named in a message
Item = Example | Problem


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What was read from one file. ``rows`` counts kept and rejected rows; ``ignored_keys`` rows per key."""

    path: str
    container: str
    format: str
    rows: int
    sha256: str
    ignored_keys: dict[str, int]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The examples of some files, everything that was wrong with them, and one ``FileFacts`` per file.

    ``keys`` are those of the first rows, in order, with dotted paths into objects: what ``group`` can name.
    """

    examples: list[Example]
    problems: list[Problem]
    files: list[FileFacts]
    keys: dict[str, None] = field(default_factory=dict)

    @property
    def rejected(self) -> list[Problem]:
        return [p for p in self.problems if p.action == "rejected"]


def read_examples(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    group: str | None = None,
) -> Iterator[Item]:
    """Stream a file: each row gives an ``Example`` or a rejected ``Problem``; a repaired row gives both, the
    ``Problem`` first. Facts about the whole file (``noted``, ``bom``, ``crlf``) come last.

    ``columns`` maps any row to a known format; ``format`` names one instead of recognising it; ``group`` is
    the key whose rows must stay together in a split. Raises ``DataError`` for a file that cannot be read or
    recognised.
    """
    return iter(Reader(path, columns=columns, format=format, group=group))


def load(
    paths: Iterable[str | Path],
    *,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
    group: str | None = None,
) -> Loaded:
    """Read whole files into memory; see ``read_examples``."""
    loaded = Loaded([], [], [])
    for path in paths:
        reader = Reader(path, columns=columns, format=format, group=group)
        for item in reader:
            if isinstance(item, Problem):
                loaded.problems.append(item)
            else:
                loaded.examples.append(item)
        loaded.files.append(reader.facts())
        loaded.keys.update(reader.keys)
    return loaded


@dataclass
class Reader:
    """One pass over one file. ``format`` is known after the first row, ``facts()`` after the last.

    A file that preparing wrote for several tasks has a format for each of them. Iterating reads all rows; who
    reads a share of them takes ``raws()``, and calls ``read`` for its own rows, ``pass_over`` for the others.
    """

    path: str | Path
    columns: Mapping[str, str] | None = field(default=None, kw_only=True)
    format: str | None = field(default=None, kw_only=True)
    group: str | None = field(default=None, kw_only=True)
    besides: Sequence[str] = field(default=(), kw_only=True)  # paths of a row that the caller reads itself

    def __post_init__(self) -> None:
        self.source = str(self.path)
        self.known: Format | None = format_named(self.format) if self.format else None
        self.rows = 0
        self.keys: dict[str, None] = {}
        self._of_task: dict[str, Format | None] = {}
        self._container: Container | None = None
        self.file_notes = Notes()
        self.row_notes = Notes()
        self._map = column_map(self.columns) if self.columns else None
        used = columns_used(self.columns) if self.columns else frozenset()
        own = [path for path in (self.group, *self.besides) if path]
        self._used = used | {name for path in own for name in (path, path.split(".")[0])}

    def __iter__(self) -> Iterator[Item]:
        for raw in self.raws():
            yield from self.read(raw)
        yield from self.file_problems()

    def raws(self) -> Iterator[Raw]:
        """The rows as they stand in the file, once the format was found from the first of them."""
        path = Path(self.path)
        self._container = container_of(path)
        raws = raw_rows(path, self._container, self.file_notes)
        for raw in chain(self.recognise(raws), raws):
            self.rows += 1
            yield raw

    def file_problems(self) -> Iterator[Problem]:
        """What is to be said about the whole file; call it after the last row."""
        return file_problems(self.source, self.file_notes, self.row_notes)

    def facts(self) -> FileFacts:
        """What was read; call it after the last row."""
        ignored = ignored_keys(self.file_notes, self.row_notes)
        digest = file_digest(Path(self.path))
        return FileFacts(self.source, self.container, self.format_name, self.rows, digest, ignored)

    @property
    def container(self) -> str:
        return self._container or ""

    @property
    def format_name(self) -> str:
        return self.known.name if self.known else "unknown"

    def pass_over(self, raw: Raw) -> None:
        """Note what a row that someone else reads says about the rows after it."""
        if type(raw.value) is dict:
            with suppress(BadRow):
                self._of_its_task(raw.value)

    def reads(self, key: str) -> bool:
        """Whether what stands under a key of a row can come into its example."""
        if key == "meta" or self.known is None:
            return key != "meta"
        if self._map and not self._keeps_rest():
            return key in self._used and key != self.group
        return self._keeps_rest() or (key in self.known.known and key != "id")

    def recognise(self, raws: Iterable[Raw]) -> list[Raw]:
        """Find the format from the first rows that are objects; returns the rows taken for it."""
        head: list[Raw] = []
        objects: list[dict[str, Any]] = []
        for raw in raws:
            head.append(raw)
            if type(raw.value) is dict:
                objects.append(raw.value)
            if len(objects) >= HEAD_ROWS or len(head) >= 50 * HEAD_ROWS:
                break
        self.keys = dict.fromkeys(path for row in objects for path in paths_of(row))
        alike = [row for row in objects if task_of(row) == task_of(objects[0])]
        mapped = [row for row in map(self._mapped_or_none, alike) if row is not None]
        self.known = self.known or format_of(mapped)
        if self.known is None and mapped:
            keys = ", ".join(shown(key) for key in list(mapped[0])[:12])
            raise DataError(
                f"{self.source}:{head[0].line}: no known format has the keys {keys}; {advice(mapped[0])}"
            )
        return head

    def _mapped_or_none(self, row: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return self._map(row) if self._map else row
        except BadRow:
            return None

    def read(self, raw: Raw) -> Iterator[Item]:
        """The example of one row, or the problem for which it is rejected; what was repaired comes first."""
        repairs: Repairs = []
        try:
            example = self._example(raw, repairs)
        except BadRow as bad:
            yield problem(self.source, raw.line, bad.reason, bad.detail)
            return
        if raw.controls:
            yield problem(self.source, raw.line, "control_chars", f"{raw.controls} removed")
        for reason, detail in repairs:
            if reason == "ignored_keys":
                self.row_notes.ignore(detail, raw.line)
            else:
                yield problem(self.source, raw.line, reason, detail)
        yield example

    def _example(self, raw: Raw, repairs: Repairs) -> Example:
        row = raw.value
        if type(row) is not dict:
            raise row if isinstance(row, BadRow) else BadRow("not_object", f"the row is {kind(row)}")
        mapped = self._of_its_task(row)
        if self.known is None:
            raise BadRow("missing_column", "no row at the start of the file has the mapped columns")
        meta = self._meta(row, mapped, raw.line)
        example = build(self.known, self._whole(row, mapped), meta, repairs)
        self._note_unused(row, raw.line)
        return example

    def _of_its_task(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with its columns mapped; from here on the format is that of its task, if it has one."""
        mapped = self._map(row) if self._map else row
        if (task := task_of(row)) is not None and not self.format:
            self.known = self._of_task[task] = self._of_task.get(task) or format_of([mapped]) or self.known
        return mapped

    def _keeps_rest(self) -> bool:
        """Whether the columns that the format does not read are kept, unless a mapping says which."""
        return self.known is not None and self.known.keeps_rest and "fields" not in (self.columns or {})

    def _whole(self, row: dict[str, Any], mapped: dict[str, Any]) -> dict[str, Any]:
        """What the format reads: of a format that keeps the rest, all columns but what is known already."""
        if self.known is None or not self.known.keeps_rest:
            return mapped
        gone = {"meta"} if is_own_meta(row.get("meta")) else set()
        if not self._map:
            return {key: value for key, value in row.items() if key not in gone}
        mapped = {key: value for key, value in mapped.items() if key != "group"}
        if not self._keeps_rest():
            return mapped
        gone |= {"id", *columns_renamed(self.columns or {})}
        return {**mapped, "fields": {key: value for key, value in row.items() if key not in gone}}

    def _note_unused(self, row: dict[str, Any], line: int) -> None:
        """Count the columns that neither the format nor the mapping reads."""
        assert self.known is not None
        if self._keeps_rest():
            return
        known = self._used if self._map else self.known.known
        if not row.keys() <= known:
            for key in row.keys() - known - self._used - {"id", "meta"}:
                self.row_notes.ignore(key, line)

    def _meta(self, row: dict[str, Any], mapped: dict[str, Any], line: int) -> Meta:
        """Source and line; from the row's own ``meta`` if it is one that preparing wrote."""
        given = row.get("meta")
        if is_own_meta(given):
            source, number, id_ = given["source"], given["line"], given.get("id")
            group = given.get("group") if self.group is None else self._group(row, line)
            marks = [name_of(given.get(key), key) for key in ("task", "synthetic", "mixed")]
        else:
            source, number, id_ = self.source, line, mapped.get("id", row.get("id"))
            marks = []
            group = self._given_group(row, mapped, line)
            if given is not None and not self._keeps_rest():
                self.row_notes.ignore("meta", line)
        return Meta(source, number, name_of(id_, "id"), name_of(group, "group"), *marks)

    def _given_group(self, row: dict[str, Any], mapped: dict[str, Any], line: int) -> Any:
        if self.group is not None:
            return self._group(row, line)
        if self._map and "group" in (self.columns or {}):
            return self._counted(mapped.get("group"), line)
        return None

    def _group(self, row: dict[str, Any], line: int) -> Any:
        value = lookup(row, self.group or "")
        return self._counted(None if value is MISSING else value, line)

    def _counted(self, group: Any, line: int) -> Any:
        """``group``; a row without one is counted, because nothing but its prompt protects it in a split."""
        if group is None or group == "":
            self.row_notes.count("no_group", line)
            return None
        return group


def example_of(line: bytes) -> Example:
    """The example of a row in its prepared form; a row that is not is an error of the program."""
    value = parse_json(line)
    known = format_of([value])
    assert known is not None, "not a prepared row"
    items = list(Reader("", format=known.name).read(Raw(0, value)))
    assert len(items) == 1 and not isinstance(items[0], Problem), f"not a prepared row: {items}"
    return items[0]


def file_problems(source: str, file_notes: Notes, row_notes: Notes) -> Iterator[Problem]:
    """What is to be said about a whole file, in the order of the lines where it first showed."""
    both = Notes()
    both.add(file_notes)
    both.add(row_notes)
    for reason, (line, count) in sorted(both.facts.items(), key=lambda item: item[1][0]):
        detail = "at byte 0" if reason == "bom" else f"{count} in all, the first in line {line}"
        yield problem(source, line, reason, detail)
    if both.ignored:
        known = list(ignored_keys(both).items())
        counts = ", ".join(f"{shown(key)} ({n})" for key, n in known[:KEYS_SHOWN])
        counts += f" and {len(known) - KEYS_SHOWN:,} more" if len(known) > KEYS_SHOWN else ""
        line = min(line for line, _ in both.ignored.values())
        yield problem(source, line, "ignored_keys", f"not used, with the number of rows: {counts}")


def ignored_keys(*notes: Notes) -> dict[str, int]:
    """Keys that were not used, with the number of rows that have them."""
    both = Notes()
    for some in notes:
        both.add(some)
    return {key: count for key, (_, count) in sorted(both.ignored.items())}
