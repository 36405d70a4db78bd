"""Train, validation and test: decided for each group of rows by a seeded hash, never by chance.

Rows are joined into one group if they share the user's group key, the normalised prompt, or the normalised
text; a conversation asks each of its earlier prompts too. A group takes the side of its *leader*, the first
of its rows. Each leader draws ``u = hash(seed, its key)``; u < test gives test, u < test + validation
validation, else train.

Stratified: the leaders of one class are dealt out in file order. The n-th owes each side its *deficit*, n
times the share less what the side has. A side that is owed a whole group gets it; otherwise u chooses among
the sides that are owed something, in proportion. Then every side is always less than one group from its
share of the class. Proof: before a group is dealt the deficits sum to 1 and each is above -1, so at most
one is 1 or more, and it is served; and a served side had a positive deficit, so it stays above -1. The
first leader of a label goes to train, so no label is unknown in training (of labels that are whole numbers,
and so perhaps quantities that never repeat, only those of the first ``classes.WHOLE_CLASSES`` do).

Classes are labels that are not numbers on a scale (rows with several labels are one class), and the answers
of conversations: a different answer is a different class, so answers that never repeat are divided by hash
alone; so are the rows of every other kind. A leader's class and its place among the leaders before it never
change when rows are appended, so appended rows never move an old one, unless they join two groups (then the
one with the later leader moves).

A side that was asked for and comes out empty is given the group with the lowest hash, and ``notes`` says
so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.hashing import unit_interval
from tunewright.core.records import Example
from tunewright.data.dedupe.union import Rows
from tunewright.data.grouping import joined
from tunewright.data.keys import Key
from tunewright.data.split_table import SplitTable, keys_of, table_of, unseen

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")
TRAIN = SIDES.index("train")


@dataclass(frozen=True, slots=True)
class Split:
    """Three lists that together hold every example once, each in the order of the input."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Leak:
    """Two rows on different sides that share a key (``kind``: group, prompt or text)."""

    kind: str
    first: str
    second: str
    sides: tuple[Side, Side]


def split(
    examples: Sequence[Example], *, validation: float, test: float, seed: int, stratify: bool = True
) -> Split:
    """Divide ``examples``; the shares are of groups, in [0, 1), and leave something to train on.

    Raises ``ConfigError`` for impossible shares and ``DataError`` if there are fewer groups than sides.
    """
    table = table_of(examples)
    groups, opened = joined(len(examples), table.keys)
    shares = shares_of(validation, test)
    sides, notes = deal(table, groups, opened, shares, seed=seed, stratify=stratify)
    parts: dict[Side, list[Example]] = {side: [] for side in SIDES}
    for example, side in zip(examples, sides.tolist(), strict=True):
        parts[SIDES[side]].append(example)
    return Split(parts["train"], parts["validation"], parts["test"], tuple(notes))


def shares_of(validation: float, test: float) -> dict[Side, float]:
    """The share of each side, in the order in which they are served; raises ``ConfigError``."""
    if min(validation, test) < 0 or validation + test >= 1:
        raise ConfigError(f"split: validation {validation} and test {test} must be >= 0 and sum to below 1")
    return {"test": test, "validation": validation, "train": 1 - validation - test}


def leaks(result: Split) -> list[Leak]:
    """Every row that shares a group, prompt or text key with another side; empty for a clean split."""
    seen: dict[tuple[str, Key], tuple[Side, str]] = {}
    found: list[Leak] = []
    for side in SIDES:
        for example in getattr(result, side):
            if example.meta.synthetic and side != "train":
                found.append(Leak("synthetic", example.meta.where(), example.meta.where(), ("train", side)))
            for kind, key in keys_of(example):
                where, first = seen.setdefault((kind, key), (side, example.meta.where()))
                if where != side:
                    found.append(Leak(kind, first, example.meta.where(), (where, side)))
    return found


def groups_of(examples: Sequence[Example]) -> list[int]:
    """For each row the index of its leader: the first row of the group it belongs to."""
    found: list[int] = joined(len(examples), table_of(examples).keys)[0].tolist()
    return found


def deal(
    table: SplitTable,
    groups: Rows,
    opened: NDArray[np.bool_],
    shares: dict[Side, float],
    *,
    seed: int,
    stratify: bool = True,
) -> tuple[NDArray[np.int8], list[str]]:
    """The side of every row (its place in ``SIDES``), and notes; ``joined`` gives ``groups``, ``opened``."""
    openers = np.flatnonzero(opened)
    draws = {
        row: unit_interval("split", seed, leader.hex())
        for row, leader in zip(openers.tolist(), _leader_keys(table, openers), strict=True)
    }
    labels = table.labels if stratify else table.labels[:0]
    protected = set(groups[labels["row"][unseen(labels["id"], labels["whole"])]].tolist())
    dealt = _dealt(table, draws, shares, stratify)
    sides: dict[int, Side] = {
        leader: "train" if leader in protected else dealt[leader] for leader in np.unique(groups).tolist()
    }
    notes = _fill_empty(sides, draws, shares, protected)
    numbers = np.zeros(len(groups), np.int8)
    leaders = np.fromiter(sides, np.int64, len(sides))
    numbers[leaders] = np.fromiter((SIDES.index(side) for side in sides.values()), np.int8, len(sides))
    return numbers[groups], notes


def _leader_keys(table: SplitTable, rows: Rows) -> Iterator[bytes]:
    """The key that draws for each of ``rows``."""
    data = np.ascontiguousarray(table.leaders[rows]).tobytes()
    return (data[at : at + 16] for at in range(0, len(data), 16))


def _dealt(
    table: SplitTable, draws: dict[int, float], shares: dict[Side, float], stratify: bool
) -> dict[int, Side]:
    """The side of each row that opened a group, in file order; see the module for the rule and its bound."""
    rows = np.fromiter(draws, np.int64, len(draws))
    classes = table.classes[rows]
    ids = classes["id"] if stratify else np.zeros(len(rows), np.uint64)
    _, places, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    alone = (sizes[places] == 1) | (ids == 0)  # a class of one needs no account of what it was given
    labelled = np.flatnonzero((classes["labelled"] == 1) & (ids != 0))
    first = set(rows[labelled[unseen(ids[labelled], classes["whole"][labelled])]].tolist())
    given: dict[int, Counter[Side]] = {}
    sides: dict[int, Side] = {}
    for (row, u), known, single in zip(draws.items(), ids.tolist(), alone.tolist(), strict=True):
        counts = Counter[Side]() if single else given.setdefault(known, Counter())
        number = counts.total() + 1
        owed = {side: number * share - counts[side] for side, share in shares.items()}
        sides[row] = "train" if row in first else _owed_side(u, owed)
        counts[sides[row]] += 1
    return sides


def _owed_side(u: float, owed: dict[Side, float]) -> Side:
    """The side that is owed a whole group, or else one that ``u`` chooses, in proportion to what is owed."""
    most = max(owed, key=lambda side: owed[side])
    if owed[most] >= 1:
        return most
    rest = u * sum(max(amount, 0.0) for amount in owed.values())
    for side, amount in owed.items():
        if amount > 0 and rest < amount:
            return side
        rest -= max(amount, 0.0)
    return most  # only rounding comes here


def _fill_empty(
    sides: dict[int, Side], draws: dict[int, float], shares: dict[Side, float], protected: set[int]
) -> list[str]:
    """Give each empty side that was asked for one group of a side that has several; changes ``sides``."""
    notes = []
    for side in reversed(SIDES):
        if not sides or side in sides.values() or shares[side] <= 0:
            continue
        sizes = Counter(sides.values())
        free = [leader for leader, at in sides.items() if sizes[at] > 1]
        if not free:
            raise _too_few(sides)
        order = [(sides[leader] != "train", leader in protected, draws[leader], leader) for leader in free]
        chosen = min(order)[-1]
        sides[chosen] = side
        notes.append(f"{side} came out empty at a share of {shares[side]:g}; it was given one group")
    return notes


def _too_few(sides: dict[int, Side]) -> DataError:
    return DataError(
        f"split: {len(sides)} groups of rows are too few for these shares of train, validation and test; "
        "add rows, or lower the shares (0 leaves a side out)"
    )
