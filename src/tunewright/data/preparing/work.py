"""One worker's share: every worker reads each file whole, which costs little, and works on its chunks.

No row passes between processes, and which process did a chunk cannot be seen in it. A part that lies there
finished is not made again, so work that was interrupted goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from tunewright.core.paths import written_atomically
from tunewright.data.load import Reader
from tunewright.data.preparing.part import is_written, part_path, write_part
from tunewright.data.preparing.sources import Source
from tunewright.data.preparing.stage import Stage, part_of
from tunewright.data.rows import Notes, Raw

CHUNK_ROWS = 2048
CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class FileRead:
    """What a pass over a whole file says of it; ``chunks`` is how many parts it has."""

    rows: int
    chunks: int
    container: str
    format: str
    keys: list[str]
    facts: dict[str, list[int]]
    ignored: dict[str, list[int]]


def do_share(
    sources: list[Source], directory: Path, stage: Stage, reading: dict[str, Any], worker: int, workers: int
) -> None:
    """Make the parts of all files whose chunk number is ``worker`` modulo ``workers``, unless they are there.

    ``reading``: ``format`` and ``group`` as ``Reader`` takes them. Raises ``DataError`` as reading does, or
    if a file changes meanwhile.
    """
    for number, source in enumerate(sources):
        if _all_there(directory, number):
            continue
        source.unchanged()
        reader = Reader(source.path, columns=source.columns, **reading)
        chunks = 0
        for chunk, raws in _chunks(reader, worker, workers):
            chunks = chunk + 1
            place = part_path(directory, number, chunk)
            if raws is not None and not is_written(place):
                write_part(part_of(raws, reader, source.task, stage), place)
        source.unchanged()
        notes = reader.file_notes
        read = FileRead(
            reader.rows,
            chunks,
            reader.container,
            reader.format_name,
            list(reader.keys),
            notes.facts,
            notes.ignored,
        )
        _write_read(directory, number, worker, read)


def file_read(directory: Path, number: int) -> FileRead:
    """What the workers said of file ``number``; they all say the same."""
    [first, *rest] = [
        FileRead(**orjson.loads(path.read_bytes()))
        for path in sorted(directory.glob(f"file-{number:04}-*.json"))
    ]
    assert all(other == first for other in rest), "the workers read different things in one file"
    return first


def file_notes(read: FileRead) -> Notes:
    return Notes(read.facts, read.ignored)


def _chunks(reader: Reader, worker: int, workers: int) -> Iterator[tuple[int, list[Raw] | None]]:
    """``(number, rows)`` of each chunk, with ``None`` for those of other workers.

    A chunk ends at ``CHUNK_ROWS`` rows or ``CHUNK_BYTES`` bytes, whoever counts.
    """
    number, rows, size = 0, 0, 0
    own: list[Raw] = []
    for raw in reader.raws():
        mine = number % workers == worker
        if mine:
            own.append(raw)
        else:
            reader.pass_over(raw)
        rows, size = rows + 1, size + raw.size
        if rows == CHUNK_ROWS or size >= CHUNK_BYTES:
            yield number, own if mine else None
            number, rows, size, own = number + 1, 0, 0, []
    if rows:
        yield number, own if own else None


def _all_there(directory: Path, number: int) -> bool:
    """Whether every part of a file is finished."""
    if not any(directory.glob(f"file-{number:04}-*.json")):
        return False
    chunks = file_read(directory, number).chunks
    return all(is_written(part_path(directory, number, chunk)) for chunk in range(chunks))


def _write_read(directory: Path, number: int, worker: int, read: FileRead) -> None:
    path = directory / f"file-{number:04}-{worker:04}.json"
    with written_atomically(path) as temporary:
        temporary.write_bytes(orjson.dumps(asdict(read)))
