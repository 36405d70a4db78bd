"""The parts of a preparation read as one table: arrays over all rows, and any row by its number.

Rows are numbered through all files, those of given test files first, then validation, then train: the first
row of a group is then one that has the best right to stay. Arrays lie in files and are mapped into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tunewright.core.records import Example
from tunewright.data.dedupe.union import Rows
from tunewright.data.load import example_of
from tunewright.data.preparing.part import (
    TYPES,
    Part,
    line_at,
    lines_of,
    part_path,
    read_array,
    read_band,
    read_told,
)
from tunewright.data.preparing.sources import Source
from tunewright.data.preparing.work import FileRead, file_read
from tunewright.data.problems import Problem, problem
from tunewright.data.split import SIDES
from tunewright.data.split_table import SplitTable


class Store:
    """What the workers left in ``directory`` for ``sources``, in their order."""

    def __init__(self, directory: Path, sources: list[Source]) -> None:
        self.directory = directory
        self.sources = sources
        self.files: list[FileRead] = [file_read(directory, number) for number in range(len(sources))]
        self._of_part = [number for number, read in enumerate(self.files) for _ in range(read.chunks)]
        self.parts = [
            part_path(directory, number, chunk)
            for number, read in enumerate(self.files)
            for chunk in range(read.chunks)
        ]
        counts = [(part / "leaders.bin").stat().st_size // 16 for part in self.parts]
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.rows = int(self.starts[-1])

    def told(self) -> Iterator[tuple[Source, Part]]:
        """What each part says beside its rows, with the file it is of."""
        for number, part in zip(self._of_part, self.parts, strict=True):
            yield self.sources[number], read_told(part)

    @cached_property
    def facts(self) -> NDArray[np.void]:
        """``(rows,)`` of ``FACTS``; ``start`` counts within the part."""
        return self._whole("facts")

    @cached_property
    def sides(self) -> NDArray[np.int8]:
        """For each row the side its file was given for, as the place in ``SIDES``."""
        given = [SIDES.index(self.sources[number].side) for number in self._of_part]
        return np.repeat(np.array(given, np.int8), np.diff(self.starts))

    @cached_property
    def table(self) -> SplitTable:
        """Keys, classes and labels of all rows."""
        return SplitTable(*(self._whole(name) for name in ("leaders", "keys", "classes", "labels")))

    def band(self, band: int) -> Iterator[NDArray[np.uint64]]:
        """One band of the sketches, part by part."""
        for part, rows in zip(self.parts, np.diff(self.starts).tolist(), strict=True):
            yield read_band(part, band, rows)

    def line(self, row: int) -> bytes:
        """The prepared form of a row, as it is written."""
        part = int(np.searchsorted(self.starts, row, "right")) - 1
        facts = self.facts[row]
        return line_at(self.parts[part], int(facts["start"]), int(facts["size"]))

    def place(self, row: int) -> tuple[str, int]:
        """Source and line of a row."""
        meta = orjson.loads(self.line(row))["meta"]
        return meta["source"], meta["line"]

    def where(self, row: int) -> str:
        source, line = self.place(row)
        return f"{source}:{line}"

    def problem(self, row: int, reason: str, detail: str) -> Problem:
        """The problem for which a row is left out."""
        return replace(problem(*self.place(row), reason, detail), action="rejected")

    def example(self, row: int) -> Example:
        """What a row says."""
        return example_of(self.line(row))

    def lines(self) -> Iterator[bytes]:
        """Every row in order, read part by part."""
        for number in range(len(self.parts)):
            yield from self._lines_of(number)

    def _lines_of(self, part: int) -> list[bytes]:
        facts = self.facts[self.starts[part] : self.starts[part + 1]]
        return list(lines_of(self.parts[part], facts))

    def _whole(self, name: str) -> NDArray[Any]:
        """One array over all parts, gathered into a file and mapped; ``row`` counts through all parts."""
        path = self.directory / f"all-{name}.bin"
        with path.open("wb") as out:
            for part, start in zip(self.parts, self.starts.tolist(), strict=False):
                array = read_array(part, name)
                if array.dtype.names and "row" in array.dtype.names:
                    array["row"] += start
                out.write(array.tobytes())
        if not path.stat().st_size:
            return np.empty(0, TYPES[name])
        return np.memmap(path, TYPES[name], "r")


def subset(table: SplitTable, kept: NDArray[np.bool_]) -> tuple[SplitTable, Rows]:
    """The table of the rows that ``kept`` marks, renumbered from 0, and their numbers in ``table``."""
    rows = np.flatnonzero(kept)
    number = np.cumsum(kept) - 1
    several = []
    for array in (table.keys, table.labels):
        array = np.array(array[kept[array["row"]]])
        array["row"] = number[array["row"]]
        several.append(array)
    return SplitTable(table.leaders[rows], several[0], table.classes[rows], several[1]), rows
