"""Train, validation and test: decided for each group of rows by a seeded hash, never by position or chance.

Rows are joined into one group if they share the user's group key, the normalised prompt, or the normalised
text; a conversation also joins rows whose prompt is one of its earlier prompts. A group takes the side of its
*leader*, the first of its rows: ``u = hash(seed, leader's key)`` gives test for u < test, validation for
u < test + validation, else train. So the side of a row does not depend on how many rows there are: appended
rows never move an old one, unless they join two groups (then the one with the later leader moves).

Stratified: one threshold for all draws the same share of each class, up to chance: of a class of n groups,
n*p +- sqrt(n*p*(1-p)) stand on a side of share p. In addition the first group of each label always goes to
train, so no label is unknown in training; this lowers the shares by at most one group per label.
Conversations have no labels: their answers could be told to be classes only by looking at all rows, and then
an appended row could move an old one.

A side that was asked for and comes out empty is given the group with the lowest hash, and ``notes`` says so.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.hashing import unit_interval
from tunewright.core.records import Example, Labelled
from tunewright.data.keys import Key, earlier_prompt_keys, group_key, prompt_key, text_key

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
    if min(validation, test) < 0 or validation + test >= 1:
        raise ConfigError(f"split: validation {validation} and test {test} must be >= 0 and sum to below 1")
    groups = groups_of(examples)
    members: dict[int, list[int]] = defaultdict(list)
    for row, leader in enumerate(groups):
        members[leader].append(row)
    draws = {leader: unit_interval("split", seed, _leader_key(examples[leader]).hex()) for leader in members}
    protected = _first_of_labels(examples, groups) if stratify else set[int]()
    sides = {leader: _side(u, validation, test, leader in protected) for leader, u in draws.items()}
    shares: dict[Side, float] = {"train": 1 - validation - test, "validation": validation, "test": test}
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
            for kind, key in _keys(example):
                where, first = seen.setdefault((kind, key), (side, example.meta.where()))
                if where != side:
                    found.append(Leak(kind, first, example.meta.where(), (where, side)))
    return found


def groups_of(examples: Sequence[Example]) -> list[int]:
    """For each row the index of its leader: the first row of the group it belongs to (union-find)."""
    parent = list(range(len(examples)))
    owner: dict[tuple[str, Key], int] = {}
    for row, example in enumerate(examples):
        for key in _keys(example):
            _join(parent, owner.setdefault(key, row), row)
    for row, example in enumerate(examples):
        for earlier in earlier_prompt_keys(example):
            if ("prompt", earlier) in owner:
                _join(parent, owner["prompt", earlier], row)
    return [_root(parent, row) for row in range(len(examples))]


def _keys(example: Example) -> Iterator[tuple[str, Key]]:
    group = group_key(example)
    if group is not None:
        yield "group", group
    yield "prompt", prompt_key(example)
    yield "text", text_key(example)


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


def _side(u: float, validation: float, test: float, protected: bool) -> Side:
    if protected or u >= test + validation:
        return "train"
    return "test" if u < test else "validation"


def _first_of_labels(examples: Sequence[Example], groups: Sequence[int]) -> set[int]:
    """Leaders of the first group of each label that is not a number on a scale."""
    first: dict[tuple[str, object], int] = {}
    for example, leader in zip(examples, groups, strict=True):
        if isinstance(example, Labelled) and not isinstance(example.label, float):
            first.setdefault((type(example.label).__name__, example.label), leader)
    return set(first.values())


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
