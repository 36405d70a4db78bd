"""Questions and decisions on disk: ``review.jsonl`` (what to ask) and ``decisions.jsonl`` (what was said).

Neither holds a value. A decision is for the id of a value, so it covers the value wherever it stands, and
only for whoever has the same key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from tunewright.core.errors import DataError
from tunewright.core.paths import sync
from tunewright.data.redact.draw import keyed_id
from tunewright.data.redact.findings import TYPES, Action
from tunewright.data.redact.folding import fold
from tunewright.data.redact.pseudonyms import normal

REVIEW, DECISIONS = "review.jsonl", "decisions.jsonl"
CHOICES: tuple[Action, ...] = ("mask", "pseudonym", "drop", "keep")


@dataclass(frozen=True, slots=True)
class Asked:
    """One line of ``review.jsonl``."""

    id: str
    source: str
    line: int
    field: str
    type: str
    start: int
    end: int
    score: float

    def is_value(self, text: str, key: bytes) -> bool:
        """Whether ``text``, the field as it is now, still holds at this place what was asked about."""
        if not 0 <= self.start < self.end <= len(text):
            return False
        return keyed_id(key, self.type, normal(self.type, fold(text[self.start : self.end]).text)) == self.id


def questions(directory: Path) -> list[Asked]:
    """The questions of a prepared directory; raises ``DataError`` for none or a damaged line."""
    path = directory / REVIEW
    if not path.is_file():
        raise DataError(f"{path}: no such file; run `tunewright data prepare` with redaction first")
    found = []
    for number, line in _lines(path):
        try:
            asked = Asked(**orjson.loads(line))
        except (orjson.JSONDecodeError, TypeError):
            raise DataError(f"{path}:{number}: not a question; run `tunewright data prepare` again") from None
        if asked.type not in TYPES:
            raise DataError(f"{path}:{number}: unknown type of data; run `tunewright data prepare` again")
        found.append(asked)
    return found


def decisions(directory: Path) -> dict[str, Action]:
    """Id -> action; the last decision on a value counts. A line that a crash cut off is passed over."""
    path = directory / DECISIONS
    if not path.is_file():
        return {}
    said: dict[str, Action] = {}
    lines = list(_lines(path))
    for place, (number, line) in enumerate(lines):
        try:
            row = orjson.loads(line)
            id_, action = row["id"], row["action"]
            known = action in CHOICES and isinstance(id_, str)
        except (orjson.JSONDecodeError, KeyError, TypeError):
            if place == len(lines) - 1:
                continue
            raise DataError(f"{path}:{number}: not a decision; mend or delete this line") from None
        if not known:
            raise DataError(f"{path}:{number}: no id, or an unknown action; known: {', '.join(CHOICES)}")
        said[id_] = action
    return said


def decide(directory: Path, id_: str, action: Action) -> None:
    """Append a decision and flush it to the disk; after a crash it is there whole or not at all."""
    path = directory / DECISIONS
    line = orjson.dumps({"id": id_, "action": action}) + b"\n"
    with path.open("ab") as file:
        if file.tell() and not _ends_line(path):
            line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    sync(directory)


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line
