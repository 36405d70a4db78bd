"""The receipt: every row accounted for, every change counted, every file with its hash."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.core.hashing import file_digest
from tunewright.data.load import file_problems, ignored_keys
from tunewright.data.preparing.ledger import Ledger
from tunewright.data.preparing.output import by_task
from tunewright.data.preparing.settings import PrepareSettings
from tunewright.data.preparing.sources import Source
from tunewright.data.preparing.stage import hashed
from tunewright.data.preparing.work import FileRead
from tunewright.data.problems import RULES
from tunewright.data.rows import Notes
from tunewright.data.split import SIDES


def account(
    ledger: Ledger,
    sides: NDArray[np.int8],
    written: dict[str, dict[str, Any]],
    notes: list[str],
    reports: dict[str, Any],
    settings: PrepareSettings,
) -> dict[str, Any]:
    """The receipt of a preparation; asserts that rows in are rows out and rows left out."""
    store = ledger.store
    rows_out = int(ledger.left.sum())
    assert ledger.rows_in == rows_out + ledger.count, (
        f"{ledger.rows_in} rows in, {rows_out} out, {ledger.count} rejected"
    )
    changes = _Changes(ledger)
    return {
        "rows_in": ledger.rows_in,
        "rows_out": rows_out,
        "rejected": ledger.count,
        "kind": " and ".join(changes.kinds),
        "steps": ledger.steps,
        "repaired": dict(sorted(changes.repaired.items())),
        "splits": written,
        **(
            {"tasks": by_task(store, ledger.left, sides, {hashed(name): name for name in changes.tasks})}
            if settings.tasks
            else {}
        ),
        **reports,
        "notes": notes + changes.sentences(),
        "settings": settings.model_dump(mode="json"),
        "files": changes.files,
    }


class _Changes:
    """What was repaired and noted, over all parts, and the facts of each file, those of train first."""

    def __init__(self, ledger: Ledger) -> None:
        self.repaired: Counter[str] = Counter()
        self.files: list[dict[str, Any]] = []
        self.tasks: dict[str, None] = {}
        kinds: dict[str, dict[str, None]] = {"train": {}}
        self._rows: Counter[tuple[str, str]] = Counter()
        self._said: list[str] = []
        store = ledger.store
        row_notes: dict[str, Notes] = {}
        for source, part in store.told():
            row_notes.setdefault(_name(source), Notes()).add(part.notes)
            self._rows.update(part.changed_rows)
            for (reason, action), count in part.changed.items():
                if action == "repaired":
                    self.repaired[reason] += count
            for task, found in part.kinds.items():
                self.tasks[task] = None
                kinds.setdefault(source.side, {}).update(dict.fromkeys(found))
        self.kinds = list(kinds["train"])
        pairs = sorted(
            zip(store.sources, store.files, strict=True), key=lambda pair: SIDES.index(pair[0].side)
        )
        for source, read in pairs:
            self._file(source, read, row_notes.get(_name(source), Notes()))

    def sentences(self) -> list[str]:
        """What was repaired or noted: rows are counted; facts about a file come as they are."""
        rows = [
            f"{count} row(s) {action} ({reason}): {RULES[reason].what}"
            for (reason, action), count in sorted(self._rows.items())
        ]
        return rows + self._said

    def _file(self, source: Source, read: FileRead, row_notes: Notes) -> None:
        file_notes = Notes(read.facts, read.ignored)
        for told in file_problems(source.path, file_notes, row_notes):
            self._said.append(f"{source.path}: {RULES[told.reason].what} ({told.reason}): {told.detail}")
            if told.action == "repaired":
                self.repaired[told.reason] += 1
        self.files.append(
            {
                "used_for": source.side,
                "path": source.path,
                "container": read.container,
                "format": read.format,
                "rows": read.rows,
                "sha256": file_digest(Path(source.path)),
                "ignored_keys": ignored_keys(file_notes, row_notes),
            }
        )


def _name(source: Source) -> str:
    return f"{source.side}:{source.path}"
