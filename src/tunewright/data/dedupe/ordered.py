"""Records put in order on disk: by ``key``, then ``second``, then as they came, in memory that does not grow.

More records than fit are dealt into 256 files by the highest byte of the key, and each file is ordered by
itself; one that is still too large is dealt out by the next byte. Records with equal keys stay in one
stretch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RECORD = np.dtype([("key", "<u8"), ("second", "<u8"), ("row", "<i8"), ("says", "<u8")])
Records = NDArray[np.void]
_BLOCK = 1 << 18  # records that are read at a time
_BYTES = 16  # of key and second together


class Space(NamedTuple):
    """What ordering may use: a ``folder`` for files that stand for a while, and ``records`` held in memory.

    Two million records are 64 MiB, and as much again while they are put in order.
    """

    folder: Path | None = None
    records: int = 1 << 21


def records(key: NDArray[np.uint64], rows: NDArray[np.int64], **fields: NDArray[np.uint64]) -> Records:
    """Records of some rows; what is not given is 0."""
    made = np.zeros(len(key), RECORD)
    made["key"], made["row"] = key, rows
    for name, values in fields.items():
        made[name] = values
    return made


def ordered(chunks: Iterable[Records], space: Space | None = None) -> Iterator[Records]:
    """All records in order, a stretch at a time."""
    return _ordered(iter(chunks), space or Space(), 0)


def in_blocks(chunks: Iterable[Records], size: int) -> Iterator[Records]:
    """The same records, ``size`` at a time, however they came."""
    waiting: list[Records] = []
    have = 0
    for chunk in chunks:
        while have + len(chunk) >= size:
            waiting.append(chunk[: size - have])
            chunk = chunk[size - have :]
            yield np.concatenate(waiting)
            waiting, have = [], 0
        if len(chunk):
            waiting.append(chunk)
            have += len(chunk)
    if waiting:
        yield np.concatenate(waiting)


def _ordered(chunks: Iterator[Records], space: Space, depth: int) -> Iterator[Records]:
    held: list[Records] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size > space.records:
            break
    else:
        if size:
            yield _sorted(np.concatenate(held))
        return
    if depth == _BYTES:
        yield from held
        yield from chunks
        return
    with TemporaryDirectory(prefix="order-", dir=space.folder) as name:
        folder = Path(name)
        _deal(_chained(held, chunks), folder, depth)
        for part in sorted(folder.iterdir()):
            yield from _ordered(_read(part), space, depth + 1)
            part.unlink()


def _sorted(found: Records) -> Records:
    order = np.lexsort((found["second"], found["key"]))
    return found[order]


def _chained(held: list[Records], rest: Iterator[Records]) -> Iterator[Records]:
    while held:
        yield held.pop(0)
    yield from rest


def _deal(chunks: Iterator[Records], folder: Path, depth: int) -> None:
    """Append each record to the file of one byte of its keys; the file's name has that byte's order."""
    field, shift = ("key", depth) if depth < 8 else ("second", depth - 8)
    for chunk in chunks:
        byte = (chunk[field] >> np.uint64(56 - 8 * shift)).astype(np.uint8)
        dealt = chunk[np.argsort(byte, kind="stable")]
        edges = np.concatenate(([0], np.cumsum(np.bincount(byte, minlength=256))))
        for value in np.flatnonzero(np.diff(edges)).tolist():
            with (folder / f"{value:03}").open("ab") as out:
                out.write(dealt[edges[value] : edges[value + 1]].tobytes())


def _read(path: Path) -> Iterator[Records]:
    with path.open("rb") as file:
        while len(block := np.fromfile(file, RECORD, _BLOCK)):
            yield block
