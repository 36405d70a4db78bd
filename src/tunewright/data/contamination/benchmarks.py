"""The index that rows are looked up in: the user's benchmarks and the public test sets that are bundled."""

from __future__ import annotations

from collections.abc import Mapping

from tunewright.core.errors import DataError
from tunewright.core.records import Example
from tunewright.data.contamination.index import Index
from tunewright.data.contamination.known import known
from tunewright.data.contamination.ngrams import items_of
from tunewright.data.load import load


def index_of(benchmarks: Mapping[str, str], public: bool) -> Index:
    """The items of ``benchmarks`` (name -> file), with those of the bundled public test sets if so asked.

    Raises ``DataError`` for a file that cannot be read or holds no row: nothing would ever be found in it.
    """
    parts = [Index.build(name, items_of(_rows(name, file))) for name, file in benchmarks.items()]
    return Index.merged([*parts, *([known()] if public else [])])


def _rows(name: str, file: str) -> list[Example]:
    data = load([file])
    if not data.examples:
        raise DataError(
            f"{file}: benchmark {name!r} holds no row that can be read; see `tunewright data check {file}`"
        )
    return data.examples
