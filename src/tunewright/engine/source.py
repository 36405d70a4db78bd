"""Where the sequences of an update come from when they are known before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.core.records import Tokens
from tunewright.data.pack import shared_rows
from tunewright.objectives.base import Drawn


class Stored:
    """Rendered sequences, drawn as they are; implements ``objectives.base.Source``.

    ``shares`` says how many sequences of a task stand in an epoch, as a multiple of those it has.
    """

    updates = 1

    def __init__(
        self, sequences: Sequence[Tokens], shares: Mapping[str, float] | None = None, seed: int = 0
    ) -> None:
        self.sequences = sequences
        self.sizes: Sequence[int] = [tokens.size for tokens in sequences]
        self._tasks = [tokens.task for tokens in sequences]
        self._shares, self._seed = shares or {}, seed

    def rows(self, epoch: int) -> Sequence[int]:
        """All of them, or the shares of their tasks."""
        return shared_rows(self._tasks, self._shares, seed=self._seed, epoch=epoch)

    def draw(self, step: int, rows: Sequence[int]) -> Drawn:
        """The sequences of ``rows``."""
        return Drawn([self.sequences[row] for row in rows], {})

    def state(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to put back."""
