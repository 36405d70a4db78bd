"""What of a row is looked up in a benchmark: n-grams of words, and whole lines and turns; all as hashes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunewright.core.records import Example, Text
from tunewright.data.dedupe.sketch import ANSWER, turns_of
from tunewright.data.dedupe.words import Hashes, Offsets, mixed, offsets_of, words
from tunewright.data.keys import prompt_of

N = 8  # words of an n-gram
LONG = 10  # words from which an item is looked up by its n-grams; a shorter one must be a whole line or turn
LEAST = 4  # words; anything may hold a shorter item
_FACTOR = 0xA24BAED4963EE407
_POWERS = np.array([pow(_FACTOR, n, 2**64) for n in range(1, 1025)], np.uint64)
_WHOLE = np.uint64(0x5851F42D4C957F2D)  # keeps hashes of whole lines apart from those of n-grams


class Grams(NamedTuple):
    """Hashes of some texts: ``hashes[i]`` is of the text ``rows[i]``."""

    hashes: Hashes
    rows: NDArray[np.int64]


def items_of(examples: Sequence[Example]) -> list[tuple[int, str]]:
    """The items of a benchmark file: the number of its row, and a question of it (or its text)."""
    return [
        (number, text)
        for number, example in enumerate(examples)
        for text in (
            [example.text]
            if isinstance(example, Text)
            else [turn.content for turn in prompt_of(example) if turn.role == "user"]
        )
    ]


def grams_of(texts: Sequence[str]) -> Grams:
    """All that is looked up of texts made by ``row_text``: n-grams of each turn, its lines, and the whole."""
    turns = [(row, turn) for row, text in enumerate(texts) for turn in _turns(text)]
    lines = [turn.split("\n") for _, turn in turns]
    hashes, starts, _ = words([line for own in lines for line in own])
    ends = starts[offsets_of(np.array([len(own) for own in lines], np.int64))]
    rows = np.array([row for row, _ in turns], np.int64)
    grams, owner = ngrams(hashes, ends)
    several = np.repeat(np.array([len(own) for own in lines]), [len(own) for own in lines]) > 1
    line_rows = np.repeat(rows, [len(own) for own in lines])
    used = several & (np.diff(starts) >= LEAST)
    return Grams(
        np.concatenate((grams, whole(hashes, ends), whole(hashes, starts)[used])),
        np.concatenate((rows[owner], rows, line_rows[used])),
    )


def ngrams(hashes: Hashes, ends: Offsets) -> tuple[Hashes, NDArray[np.int64]]:
    """The n-grams of each stretch of words, and the number of the stretch that each is of."""
    if len(hashes) < N:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    count = len(hashes) - N + 1
    made = np.zeros(count, np.uint64)
    for place in range(N):
        made += hashes[place : place + count] * _POWERS[place]
    owner = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    inside = owner[:count] == owner[N - 1 :]
    return mixed(made[inside]), owner[:count][inside]


def whole(hashes: Hashes, ends: Offsets) -> Hashes:
    """One hash for all words of each stretch; 0 for a stretch without words."""
    counts = np.diff(ends)
    filled = counts > 0
    place = np.arange(len(hashes)) - np.repeat(ends[:-1], counts)
    made = np.zeros(len(counts), np.uint64)
    if len(hashes):
        terms = hashes * _POWERS[place & 1023]
        made[filled] = mixed(np.add.reduceat(terms, ends[:-1][filled]) ^ _WHOLE)
    return made


def _turns(text: str) -> list[str]:
    """The turns of a row without their roles; a document is one turn."""
    if ANSWER not in text:
        return [text]
    return [turn.partition(": ")[2] for turn in turns_of(text) if turn]
