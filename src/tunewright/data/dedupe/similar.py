"""How similar two rows are, exactly: the Jaccard similarity of the shingles that sketches are made of.

Rows are compared turn by turn, and are as similar as their least similar turn. So a question that stands
in a long template is not the same as its neighbour because the template is, and two answers to one
question stay two. What is asked in up to ``TEMPLATE`` words must also name the same numbers: ``12
apples`` is another task.

``interchangeable`` is stricter, and says whether one of two similar rows may be left out: no turn may
differ in a number or a negation. Documents need only be similar.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from tunewright.data.dedupe.sketch import ANSWER, TURN, shingles_of
from tunewright.data.dedupe.words import Hashes, words

_READ = 1 << 21  # characters of rows that are read together
TEMPLATE = 200  # words; the numbers of longer questions are those of a document
_NEGATIONS = (  # en, de, fr, es, it, pt, nl, ru; the t is that of isn't
    "no not never none nor neither cannot without t nicht kein keine keinen keiner keinem nie ohne"
    " ne pas jamais aucun aucune sans non nunca ninguno ninguna sin mai nessuno senza não nem sem"
    " niet geen nooit zonder не нет ни без yes true false"
)


class Turn(NamedTuple):
    """One turn: its distinct ``shingles``, ascending, and sums over words with digits and over negations."""

    role: str
    shingles: Hashes
    words: int
    numbers: int
    negations: int


class Compared(NamedTuple):
    """A row as it is compared: its turns, of which the first ``asked`` ask. A document has one."""

    turns: tuple[Turn, ...]
    asked: int
    document: bool


def compared(texts: Sequence[str]) -> list[Compared]:
    """Texts made by ``row_text``, ready to be compared."""
    rows = [_sides(text) for text in texts]
    turns = iter(_turns([turn for sides in rows for side in sides for turn in side]))
    return [
        Compared(tuple(next(turns) for side in sides for _ in side), len(sides[0]), len(sides) == 1)
        for sides in rows
    ]


def similarity(a: Compared, b: Compared) -> float:
    """The least Jaccard similarity of facing turns; 0 where turns or numbers do not match."""
    if (len(a.turns), a.asked, a.document) != (len(b.turns), b.asked, b.document):
        return 0.0
    least = 1.0
    for place, (one, other) in enumerate(zip(a.turns, b.turns, strict=True)):
        if one.role != other.role:
            return 0.0
        named = not a.document and place < a.asked and min(one.words, other.words) <= TEMPLATE
        if named and one.numbers != other.numbers:
            return 0.0
        least = min(least, jaccard(one.shingles, other.shingles))
    return least


def interchangeable(a: Compared, b: Compared) -> bool:
    """Whether one of two similar rows may be left out: no turn differs in a number or a negation."""
    if a.document:
        return True
    pairs = zip(a.turns, b.turns, strict=True)
    return all((x.numbers, x.negations) == (y.numbers, y.negations) for x, y in pairs)


def similarity_of(a: str, b: str) -> float:
    """``similarity`` of two texts made by ``row_text``."""
    return similarity(*compared([a, b]))


def jaccard(a: Hashes, b: Hashes) -> float:
    """Share of the distinct values of ``a`` or ``b`` that both hold; each is sorted, without repeats."""
    if len(a) == len(b) and np.array_equal(a, b):
        return 1.0
    joined = np.concatenate((a, b))
    joined.sort()
    shared = int(np.count_nonzero(joined[1:] == joined[:-1]))
    return shared / (len(joined) - shared)


class Comparer:
    """Compares rows that are read when they are needed; ``kept`` of their shingles stay in memory."""

    def __init__(self, text_of: Callable[[int], str], kept: int = 1 << 22) -> None:
        self._text_of = text_of
        self._rows: OrderedDict[int, Compared] = OrderedDict()
        self._kept, self._held = kept, 0

    def similarity(self, a: int, b: int) -> float:
        """``similarity`` of two rows."""
        return similarity(self._row(a), self._row(b))

    def interchangeable(self, a: int, b: int) -> bool:
        """``interchangeable`` of two rows."""
        return interchangeable(self._row(a), self._row(b))

    def load(self, rows: Sequence[int]) -> None:
        """Read rows that are about to be compared, many at a time."""
        missing: list[int] = []
        texts: list[str] = []
        size = 0
        for row in dict.fromkeys(rows):
            if row in self._rows:
                self._rows.move_to_end(row)
                continue
            missing.append(row)
            texts.append(self._text_of(row))
            size += len(texts[-1])
            if size > _READ:
                self._keep(missing, texts)
                missing, texts, size = [], [], 0
        self._keep(missing, texts)

    def _row(self, row: int) -> Compared:
        if row not in self._rows:
            self._keep([row], [self._text_of(row)])
        return self._rows[row]

    def _keep(self, rows: list[int], texts: list[str]) -> None:
        for row, read in zip(rows, compared(texts), strict=True):
            self._rows[row] = read
            self._held += _size(read)
        while self._held > self._kept and len(self._rows) > 2:
            self._held -= _size(self._rows.popitem(last=False)[1])


def _size(row: Compared) -> int:
    return sum(len(turn.shingles) for turn in row.turns)


def _sides(text: str) -> list[list[tuple[str, str]]]:
    """Role and content of the turns that ask, and of those that answer; a document is one turn of no role."""
    asked, mark, answered = text.partition(ANSWER)
    if not mark:
        return [[("", text)]]
    return [
        [turn.partition(": ")[::2] for turn in side.split(TURN)] if side else [] for side in (asked, answered)
    ]


def _turns(turns: list[tuple[str, str]]) -> list[Turn]:
    texts = [content for _, content in turns]
    found = words(texts)
    hashes, starts = shingles_of(found, texts)
    ends = found.starts.tolist()
    negates = np.isin(found.hashes, _negations())
    numbers = _sums(np.where(found.numeric, found.hashes, np.uint64(0)), ends)
    negations = _sums(np.where(negates, found.hashes, np.uint64(0)), ends)
    edges = starts.tolist()
    return [
        Turn(
            role,
            np.unique(hashes[edges[i] : edges[i + 1]]),
            ends[i + 1] - ends[i],
            numbers[i],
            negations[i],
        )
        for i, (role, _) in enumerate(turns)
    ]


def _sums(values: Hashes, edges: list[int]) -> list[int]:
    """The sum of each stretch, modulo 2**64: equal for equal words in any order."""
    totals = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values, out=totals[1:])
    at = totals[edges]
    return [int(total) for total in at[1:] - at[:-1]]


@cache
def _negations() -> Hashes:
    return np.sort(words([_NEGATIONS]).hashes)
