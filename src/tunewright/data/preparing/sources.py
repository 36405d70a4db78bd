"""The files of a preparation: in which order, for what, and proof that nobody writes to them meanwhile."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewright.core.errors import DataError
from tunewright.data.split import SIDES, Side


@dataclass(frozen=True, slots=True)
class Source:
    """One file: the side it is given for, what its rows are for, and its size and time of change."""

    side: Side
    path: str
    task: str | None
    columns: dict[str, str] | None
    size: int
    changed: int

    def unchanged(self) -> None:
        """Raise ``DataError`` if the file is not what it was when the preparation began."""
        if _seen(self.path) != (self.size, self.changed):
            raise DataError(
                f"{self.path}: the file changed while it was read; wait until nobody writes to it, or copy it"
                " first, and start again"
            )


def sources_of(
    given: Mapping[Side, Sequence[str | Path]],
    tasks: Mapping[str, str],
    columns: dict[str, str] | None,
    task_columns: Mapping[str, dict[str, str]],
) -> list[Source]:
    """The files, those of test first and of train last; ``DataError`` for one that cannot be read twice."""
    found = []
    for side in reversed(SIDES):
        for path in map(str, given[side]):
            task = tasks.get(path)
            found.append(Source(side, path, task, task_columns.get(task or "", columns), *_seen(path)))
    return found


def _seen(path: str) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds."""
    try:
        facts = Path(path).stat()
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path}: cannot be read ({reason}); check the path and its permissions") from None
    if not stat.S_ISREG(facts.st_mode):
        raise DataError(f"{path}: not a regular file, which is read more than once; save it to a file first")
    return facts.st_size, facts.st_mtime_ns
