"""The steps for single rows as one function of a batch, for whoever runs them elsewhere, such as Ray Data.

    steps = RowSteps(PrepareSettings(clean={}), format="question_answer")
    done = steps({"question": [...], "answer": [...]})        # {"kind": [...], "json": [...]}

It sees no other batch, so any number of machines may run it. What compares rows comes after, with
``data prepare`` on its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import orjson

from tunewright.data.load import Reader
from tunewright.data.preparing.output import rejection
from tunewright.data.preparing.settings import PrepareSettings
from tunewright.data.preparing.stage import Stage, part_of
from tunewright.data.preparing.steps import stage_of
from tunewright.data.rows import Raw
from tunewright.data.strict import without_controls

KINDS = ("row", "rejected", "redaction", "question")


class RowSteps:
    """Reads, redacts and cleans batches of raw rows of one ``format`` (or with ``columns`` mapped).

    Every row that goes in comes out once, as a ``row`` in its prepared form or as ``rejected``, with a line
    for each ``redaction`` and ``question`` beside it. The line of a row is the value of ``line_column``, or
    its place in the batch.
    """

    def __init__(
        self,
        settings: PrepareSettings,
        format: str | None = None,
        source: str = "<batch>",
        line_column: str | None = None,
    ) -> None:
        self.settings = settings
        self.format = format
        self.source = source
        self.line_column = line_column
        self._stage: Stage | None = None

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
        """Columns in, two columns out: ``kind`` (one of ``KINDS``) and ``json``."""
        if self._stage is None:  # once a process: it may hold a language model
            self._stage = stage_of(self.settings)
        columns = {name: _listed(values) for name, values in batch.items()}
        lines = columns.pop(self.line_column) if self.line_column else count(1)
        rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        raws = [Raw(int(line), *without_controls(row)) for line, row in zip(lines, rows, strict=False)]
        settings = self.settings
        reader = Reader(self.source, columns=settings.columns, format=self.format, group=settings.group)
        reader.recognise(raws)
        part = part_of(raws, reader, None, self._stage)
        told = [
            *(("row", line) for line in part.rows.splitlines()),
            *(("rejected", orjson.dumps(rejection(problem))) for _, problem in part.rejected),
            *(("redaction", orjson.dumps(entry)) for entry in part.redactions),
            *(("question", orjson.dumps(entry)) for entry in part.questions),
        ]
        return {"kind": [kind for kind, _ in told], "json": [line.decode() for _, line in told]}

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs; each makes the stage for itself."""
        return {**self.__dict__, "_stage": None}


def unpacked(row: Mapping[str, str]) -> dict[str, Any]:
    """The object in the ``json`` column of a row of the result."""
    value: dict[str, Any] = orjson.loads(row["json"])
    return value


def _listed(values: Sequence[Any]) -> list[Any]:
    """Plain Python values, also from an array of numpy or arrow."""
    return values.tolist() if hasattr(values, "tolist") else list(values)
