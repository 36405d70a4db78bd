"""The mark of a row that a model wrote: ``meta.synthetic``, a line of text that says how it was made.

    questions 120-980 by NAME          from these characters of the document ``meta.source``
    paraphrases of 5f0c…e1 by NAME     from the row with this prompt key; so are ``negatives``

Any other text marks a row as synthetic, too; only then nothing is known about where it came from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

Making = Literal["questions", "paraphrases", "negatives"]
MAKINGS: tuple[Making, ...] = get_args(Making)
_FORM = re.compile(
    r"(?P<making>questions|paraphrases|negatives)"
    r"(?: (?P<start>\d+)-(?P<end>\d+)| of (?P<origin>[0-9a-f]{32})) by (?P<model>.+)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Mark:
    """How a row was made: from characters ``[start, end)`` of a document, or from a row by its prompt key."""

    making: Making
    model: str
    start: int = 0
    end: int = 0
    origin: bytes = b""

    def text(self) -> str:
        """What stands in ``meta.synthetic``."""
        place = f"of {self.origin.hex()}" if self.origin else f"{self.start}-{self.end}"
        return f"{self.making} {place} by {self.model}"


def read_mark(text: str | None) -> Mark | None:
    """The ``Mark`` that ``text`` writes; ``None`` for a real row, or a mark that others wrote."""
    found = _FORM.fullmatch(text or "")
    if found is None:
        return None
    making: Making = next(m for m in MAKINGS if m == found["making"])
    if found["origin"]:
        return Mark(making, found["model"], origin=bytes.fromhex(found["origin"]))
    return Mark(making, found["model"], int(found["start"]), int(found["end"]))
