"""Where the sequences of an update come from when they are known before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunewright.core.records import Tokens
from tunewright.objectives.base import Drawn


class Stored:
    """Rendered sequences, drawn as they are; implements ``objectives.base.Source``."""

    updates = 1

    def __init__(self, sequences: Sequence[Tokens]) -> None:
        self.sequences = sequences
        self.sizes = [tokens.size for tokens in sequences]

    def draw(self, step: int, rows: Sequence[int]) -> Drawn:
        """The sequences of ``rows``."""
        return Drawn([self.sequences[row] for row in rows], {})

    def state(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to put back."""
