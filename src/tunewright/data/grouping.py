"""Rows that share a key belong together: found by ordering keys, on disk if they are many, 24 bytes a key.

A key is 16 bytes (``data.keys``), held as two 64-bit numbers. The root of a group is always its first row, so
groups do not depend on the order in which they were joined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tunewright.data.dedupe.ordered import Space, ordered, records
from tunewright.data.dedupe.union import Rows, alone, join, settle
from tunewright.data.keys import Key

KEY = np.dtype([("row", "<i8"), ("a", "<u8"), ("b", "<u8")])
AT_ONCE = 1 << 20  # keys that are handed on together


def key_array(keys: Sequence[Key], rows: Sequence[int]) -> NDArray[np.void]:
    """``(m,)`` entries of ``KEY`` from 16-byte keys and the rows that have them."""
    table = np.empty(len(keys), KEY)
    halves = np.frombuffer(b"".join(keys), "<u8").reshape(-1, 2)
    table["row"], table["a"], table["b"] = rows, halves[:, 0], halves[:, 1]
    return table


def repeats(keys: NDArray[np.void], scratch: Path | None = None) -> Iterator[tuple[Rows, Rows]]:
    """``(first, later)``: rows that have a key of an earlier row, with the first row that has it.

    ``keys`` are entries of ``KEY`` in the order of rows; ``scratch`` is where files may stand for a while.
    """
    pieces = (keys[start : start + AT_ONCE] for start in range(0, len(keys), AT_ONCE))
    made = (records(piece["a"], piece["row"], second=piece["b"]) for piece in pieces)
    last: NDArray[np.void] | None = None
    for chunk in ordered(made, Space(scratch)):
        whole = chunk if last is None else np.concatenate((last, chunk))
        opens = np.ones(len(whole), bool)
        opens[1:] = (whole["key"][1:] != whole["key"][:-1]) | (whole["second"][1:] != whole["second"][:-1])
        first = whole["row"][np.flatnonzero(opens)][np.cumsum(opens) - 1]
        again = first != whole["row"]  # a row may have a key twice
        yield first[again], whole["row"][again]
        last = whole[-1:].copy()
        last["row"] = first[-1]


def first_rows(keys: NDArray[np.void], rows: int, scratch: Path | None = None) -> Rows:
    """For each of ``rows`` rows the first row with its key; ``keys`` has one entry a row, in order."""
    found = alone(rows)
    for first, later in repeats(keys, scratch):
        found[later] = first
    return found


def joined(
    rows: int, keys: NDArray[np.void], parents: Rows | None = None, scratch: Path | None = None
) -> tuple[Rows, NDArray[np.bool_]]:
    """The first row of each row's group, and which rows *opened* a group.

    Rows of one key are one group, together with what ``parents`` joined before. A row opens a group if it
    shares no key with a row before it; it leads no longer if a later row joins it to another.
    """
    parents = alone(rows) if parents is None else parents.copy()
    settle(parents)
    opened = parents == np.arange(rows)
    for first, later in repeats(keys, scratch):
        opened[later] = False
        join(parents, first, later)
    settle(parents)
    return parents, opened
