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

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.hashing import unit_interval
from tunewright.core.records import Example, Labelled
from tunewright.data.classes import Class, class_of, labels_of, unseen
from tunewright.data.keys import (
    Key,
    earlier_prompt_keys,
    group_key,
    prompt_key,
    text_key,
)
from tunewright.data.synthetic.mark import read_mark

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Split:
    """Three lists that together hold every example once, each in the order of the input."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Leak:
    """Two rows on different sides that share a key (``kind``: group, prompt or text).

    A synthetic row outside train is a leak by itself (``kind``: synthetic).
    """

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
    if min(validation, test) < 0 or validation + test >= 1:
        raise ConfigError(f"split: validation {validation} and test {test} must be >= 0 and sum to below 1")
    groups, opened = _joined(examples)
    draws = {row: unit_interval("split", seed, _leader_key(examples[row]).hex()) for row in opened}
    rows = zip(examples, groups, strict=True) if stratify else ()
    labels = ((label, leader) for example, leader in rows for label in labels_of(example))
    protected = {leader for _, leader in unseen(labels)}
    shares: dict[Side, float] = {"test": test, "validation": validation, "train": 1 - validation - test}
    dealt = _dealt(examples, draws, shares, stratify)
    sides: dict[int, Side] = {
        leader: "train" if leader in protected else dealt[leader] for leader in sorted(set(groups))
    }
    notes = _fill_empty(sides, draws, shares, protected)
    parts: dict[Side, list[Example]] = {side: [] for side in SIDES}
    for row, leader in enumerate(groups):
        parts[sides[leader]].append(examples[row])
    return Split(parts["train"], parts["validation"], parts["test"], tuple(notes))


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
    """For each row the index of its leader: the first row of the group it belongs to (union-find)."""
    return _joined(examples)[0]


def _joined(examples: Sequence[Example]) -> tuple[list[int], list[int]]:
    """``groups_of``, and the rows that opened a group: they shared no key with any row before them.

    Every leader opened its group; a row that opened one leads no longer if a later row joined it to another.
    """
    parent = list(range(len(examples)))
    owner: dict[tuple[str, Key], int] = {}
    opened = []
    for row, example in enumerate(examples):
        owners = [owner.setdefault(key, row) for key in keys_of(example)]
        if all(first == row for first in owners):
            opened.append(row)
        for first in owners:
            _join(parent, first, row)
    return [_root(parent, row) for row in range(len(examples))], opened


def keys_of(example: Example) -> Iterator[tuple[str, Key]]:
    """What keeps a row with others; a synthetic row also asks what the row asks that it was made from."""
    group = group_key(example)
    if group is not None:
        yield "group", group
    yield "prompt", prompt_key(example)
    for earlier in earlier_prompt_keys(example):
        yield "prompt", earlier
    yield "text", text_key(example)
    made = read_mark(example.meta.synthetic)
    if made and made.origin:
        yield "prompt", made.origin


def _leader_key(example: Example) -> Key:
    return group_key(example) or prompt_key(example)


def _root(parent: list[int], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


def _join(parent: list[int], a: int, b: int) -> None:
    """Join two groups; the smaller index stays the root, so that a root is always the first row."""
    first, second = sorted((_root(parent, a), _root(parent, b)))
    parent[second] = first


def _dealt(
    examples: Sequence[Example], draws: dict[int, float], shares: dict[Side, float], stratify: bool
) -> dict[int, Side]:
    """The side of each row that opened a group, in file order; see the module for the rule and its bound."""
    given: dict[Class, Counter[Side]] = defaultdict(Counter)
    classes = {row: class_of(examples[row]) if stratify else None for row in draws}
    labels = [(known, row) for row, known in classes.items() if known and isinstance(examples[row], Labelled)]
    first = {row for _, row in unseen(labels)}
    sides: dict[int, Side] = {}
    for row, u in draws.items():
        known = classes[row]
        counts = given[known] if known else Counter[Side]()
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
