"""Which rows are left, and for each that is not: at which step it went, why, and because of which row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.data.dedupe.union import Rows
from tunewright.data.preparing.store import Store
from tunewright.data.problems import Problem

Detail = Callable[[Store, int], str]


@dataclass
class _Dropped:
    """Rows that went at one step, in order, with a reason each; ``detail`` says more when it is asked."""

    rows: Rows
    reasons: list[str]
    detail: Detail


@dataclass
class Ledger:
    """The account of all rows of a store. ``left`` marks those that are still there."""

    store: Store
    rows_in: int
    left: NDArray[np.bool_] = field(init=False)
    steps: list[dict[str, Any]] = field(default_factory=list)
    read_steps: list[str] = field(default_factory=list)
    _dropped: list[_Dropped] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = np.ones(self.store.rows, bool)

    def open(self, steps: tuple[str, ...]) -> None:
        """Enter the steps that the workers did, in order, with what each rejected."""
        self.read_steps = list(steps)
        counts: dict[str, Counter[str]] = {step: Counter() for step in steps}
        for _, part in self.store.told():
            for step, rejected in part.rejected:
                counts[step][rejected.reason] += 1
        rows = self.rows_in
        for step in steps:
            rows = self._enter(step, rows, counts[step])

    def drop(self, step: str, rows: Rows, reasons: list[str], detail: Detail) -> None:
        """Take ``rows`` (in order, all still there) out at ``step``, with a reason for each."""
        before = int(self.left.sum())
        self.left[rows] = False
        self._enter(step, before, Counter(reasons))
        if len(rows):
            self._dropped.append(_Dropped(rows, reasons, detail))

    def rejected(self) -> Iterator[Problem]:
        """Every row that is not there, step by step, in the order of the files."""
        for step in self.read_steps:
            for _, part in self.store.told():
                yield from (problem for at, problem in part.rejected if at == step)
        for dropped in self._dropped:
            for row, reason in zip(dropped.rows.tolist(), dropped.reasons, strict=True):
                yield self.store.problem(row, reason, dropped.detail(self.store, row))

    @property
    def count(self) -> int:
        """How many rows are not there."""
        return sum(step["in"] - step["out"] for step in self.steps)

    def _enter(self, step: str, rows: int, reasons: Counter[str]) -> int:
        out = rows - reasons.total()
        self.steps.append({"step": step, "in": rows, "out": out, "rejected": dict(sorted(reasons.items()))})
        return out
