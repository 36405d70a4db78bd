"""The rows that the audit holds in memory: a bounded sample, drawn by a seeded hash of each row.

The hash decides, so the same rows are drawn whatever their order, from one file or several. A row of the
sample is its texts cut to ``CHARACTERS``, so memory is bounded in bytes too.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from tunewright.core.records import Conversation, Example, Labelled, Text
from tunewright.data.classes import labels_of
from tunewright.data.keys import Key, answer_of, prompt_of, turn_text

CHARACTERS = 4000  # of the prompt and of the answer of a row; what follows is not audited
LABEL_CHARACTERS = 80
TURNS_WITH_WORDS = ("user", "tool", "assistant")


@dataclass(frozen=True, slots=True)
class Row:
    """One row. ``label`` is its class if it has exactly one; ``answer`` what it teaches to write, if
    anything; ``time`` the value of the time column as it stands; ``order`` its place in the draw."""

    order: int
    arrived: int
    place: str
    prompt: str
    answer: str
    label: str | None
    kind: str
    time: object = None

    @property
    def text(self) -> str:
        """Everything that was kept of the row's texts."""
        return f"{self.prompt}\n{self.answer}" if self.answer else self.prompt


def row_of(example: Example, order: int = 0, arrived: int = 0, time: object = None) -> Row:
    """What the audit keeps of an example. A system turn is left out: it is the same in every row."""
    label = answer = ""
    classes = labels_of(example)
    if isinstance(example, Text):
        prompt = example.text[:CHARACTERS]
    else:
        turns = [turn_text(m) for m in prompt_of(example) if m.role in TURNS_WITH_WORDS]
        prompt = "\n".join(turns)[:CHARACTERS]
        if not isinstance(example, Labelled):
            answer = answer_of(example)
        elif isinstance(example.label, bool) and example.messages[-1].role == "assistant":
            answer = example.messages[-1].content
    if len(classes) == 1:
        label = classes[0][-1]
    kind = type(example).__name__.lower()
    return Row(order, arrived, example.meta.where(), prompt, answer[:CHARACTERS], label or None, kind, time)


@dataclass
class Reservoir:
    """At most ``limit`` rows: those whose seeded hash is smallest (bottom-k sampling)."""

    limit: int
    seed: int = 0
    seen: int = 0
    _heap: list[tuple[int, int, Row]] = field(default_factory=list)

    def add(self, example: Example, key: Key, time: object = None) -> None:
        """Offer one example; ``key`` is its ``row_key``."""
        mark = b"%d %d" % (self.seed, example.meta.line)
        order = int.from_bytes(blake2b(mark + key, digest_size=8).digest(), "big")
        self.seen += 1
        if len(self._heap) < self.limit:
            heapq.heappush(self._heap, (-order, self.seen, row_of(example, order, self.seen, time)))
        elif -self._heap[0][0] > order:
            heapq.heapreplace(self._heap, (-order, self.seen, row_of(example, order, self.seen, time)))

    def rows(self) -> list[Row]:
        """The sample in the order in which the rows came."""
        return sorted((row for _, _, row in self._heap), key=lambda row: row.arrived)


def within(rows: Sequence[Row], characters: int, most: int, inputs: bool = False) -> list[Row]:
    """As many rows, in the order of the draw, as have ``characters`` together (of their ``inputs`` alone
    where only these are read) and are not more than ``most``; given back in the order in which they came.
    Keeps the cost of a part bounded whatever the rows are."""
    kept: list[Row] = []
    used = 0
    for row in sorted(rows, key=lambda row: (row.order, row.arrived)):
        used += len(row.prompt) + (0 if inputs else len(row.answer))
        if len(kept) >= most or (used > characters and kept):
            break
        kept.append(row)
    return sorted(kept, key=lambda row: row.arrived)


def classes_of(rows: Iterable[Row]) -> list[str | None]:
    """The class of each row: its label; for chats, the answer, if the answers are a few short texts that
    come back (at least ten times each on average); all ``None`` where neither holds."""
    rows = list(rows)
    if any(row.label is not None for row in rows):
        return [row.label for row in rows]
    kind = Conversation.__name__.lower()
    answers = [" ".join(row.answer.casefold().split()) if row.kind == kind else "" for row in rows]
    short = [a for a in answers if 0 < len(a) <= LABEL_CHARACTERS]
    if len(short) < 0.98 * len(rows) or len(set(short)) * 10 > len(short) or len(set(short)) < 2:
        return [None] * len(rows)
    return [a if 0 < len(a) <= LABEL_CHARACTERS else None for a in answers]


def drawn(n: int, total: int) -> str:
    """``all 300 rows`` or ``a random 20,000 of 100,000 rows``."""
    return f"all {n:,} rows" if n == total else f"a random {n:,} of {total:,} rows"
