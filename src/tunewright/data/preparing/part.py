"""A part: what is kept of a stretch of rows of one file, as a worker leaves it on disk.

    part-0003-000012/
      rows.jsonl     the rows that are left, in their prepared form
      facts.bin …    one number array each: what has to be known of rows to compare them, never their texts
      part.json      what was rejected, repaired and found; written last, so a part without it is not there

Arrays are raw little-endian numbers of a stated type: reading one runs no code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tunewright.core.paths import written_atomically
from tunewright.data.grouping import KEY
from tunewright.data.problems import Problem, problem
from tunewright.data.rows import Notes
from tunewright.data.split_table import CLASS, LABEL

FACTS = np.dtype(
    [
        ("start", "<i8"),  # where its bytes begin in rows.jsonl
        ("size", "<i8"),  # how many they are
        ("a", "<u8"),  # key of exact duplicates
        ("b", "<u8"),
        ("question", "<u8", (2,)),  # rows with the same question …
        ("says", "<u8"),  # … should say the same; 0 for a row that says nothing
        ("label", "<u8"),  # a hash of its label, 0 without one
        ("task", "<u8"),
        ("words", "<u4"),  # of what it teaches
        ("repairs", "<u4"),
        ("redactions", "<u4"),
        ("synthetic", "u1"),
        ("time", "<f8"),  # seconds since 1970, NaN without a time
        ("language", "S3"),  # where it is sure
        ("answer", "<u8"),  # key of an answer that may be boiler-plate, 0 without one
        ("brief", "i1"),  # whether its answer is; -1 for a row that learns none
        ("placeholder", "u1"),
    ]
)
HALVES = np.dtype(("<u8", (2,)))


@dataclass
class Part:
    """Some rows of one file that follow each other, and what became of them.

    ``arrays`` holds ``facts``, ``leaders``, ``classes`` (one entry per kept row, in order), ``keys`` and
    ``labels`` (several a row, numbered within the part) and ``bands`` (``(rows, bands)``, may be empty).
    """

    rows: bytes = b""
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    rejected: list[tuple[str, Problem]] = field(default_factory=list)
    changed: Counter[tuple[str, str]] = field(default_factory=Counter)
    changed_rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    redactions: list[dict[str, Any]] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)
    matches: list[dict[str, Any]] = field(default_factory=list)
    kinds: dict[str, dict[str, str]] = field(default_factory=dict)
    grouped: int = 0
    notes: Notes = field(default_factory=Notes)


TYPES: dict[str, Any] = {
    "facts": FACTS,
    "leaders": HALVES,
    "classes": CLASS,
    "keys": KEY,
    "labels": LABEL,
}


def write_part(part: Part, directory: Path) -> None:
    """Write ``directory``; it counts as there when ``part.json`` is, which is renamed into place last."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "rows.jsonl").write_bytes(part.rows)
    for name, array in part.arrays.items():
        (directory / f"{name}.bin").write_bytes((array.T if name == "bands" else array).tobytes())
    told = {
        "rejected": [[step, p.source, p.line, p.reason, p.detail] for step, p in part.rejected],
        "changed": [[*change, n] for change, n in sorted(part.changed.items())],
        "changed_rows": [[*change, n] for change, n in sorted(part.changed_rows.items())],
        "redactions": part.redactions,
        "questions": part.questions,
        "matches": part.matches,
        "kinds": part.kinds,
        "grouped": part.grouped,
        "facts": part.notes.facts,
        "ignored": part.notes.ignored,
        "bands": part.arrays["bands"].shape[1],
    }
    with written_atomically(directory / "part.json") as temporary:
        temporary.write_bytes(orjson.dumps(told))


def is_written(directory: Path) -> bool:
    return (directory / "part.json").exists()


def read_told(directory: Path) -> Part:
    """All of a part but its rows and arrays."""
    told = orjson.loads((directory / "part.json").read_bytes())
    return Part(
        rejected=[(step, problem(*place)) for step, *place in told["rejected"]],
        changed=Counter({(reason, action): n for reason, action, n in told["changed"]}),
        changed_rows=Counter({(reason, action): n for reason, action, n in told["changed_rows"]}),
        redactions=told["redactions"],
        questions=told["questions"],
        matches=told["matches"],
        kinds=told["kinds"],
        grouped=told["grouped"],
        notes=Notes(told["facts"], told["ignored"]),
    )


def read_array(directory: Path, name: str) -> NDArray[Any]:
    """One array of a part."""
    return np.fromfile(directory / f"{name}.bin", TYPES[name])


def read_band(directory: Path, band: int, rows: int) -> NDArray[np.uint64]:
    """One band of the sketches of a part that has ``rows`` rows; bands lie one after the other."""
    return np.fromfile(directory / "bands.bin", "<u8", rows, offset=band * rows * 8)


def lines_of(directory: Path, facts: NDArray[np.void]) -> Iterator[bytes]:
    """The bytes of each kept row, in order."""
    data = (directory / "rows.jsonl").read_bytes()
    for start, size in zip(facts["start"].tolist(), facts["size"].tolist(), strict=True):
        yield data[start : start + size]


def line_at(directory: Path, start: int, size: int) -> bytes:
    """The bytes of one kept row; nothing else is read, because rows are asked for in any order."""
    with (directory / "rows.jsonl").open("rb") as rows:
        rows.seek(start)
        return rows.read(size)


def part_path(directory: Path, source: int, chunk: int) -> Path:
    """Where the part of chunk ``chunk`` of file ``source`` lies; names sort in the order of the rows."""
    return directory / f"part-{source:04}-{chunk:08}"
