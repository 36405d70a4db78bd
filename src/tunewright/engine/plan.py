"""Which rows are seen in which update, and how their sequences share micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tunewright.core.records import Tokens
from tunewright.data.pack import MicroBatch, best_fit, fill_epoch

RowsOf = Callable[[int], Sequence[int]]  # epoch -> the rows that stand in it
SAMPLED = 200  # updates that are looked at to know all


class Planned(NamedTuple):
    """One update: its rows, their size, and the epochs done after it."""

    rows: tuple[int, ...]
    size: int
    epoch: float


@dataclass(frozen=True)
class Pace:
    """How rows become updates: passes over them, tokens per update, the seed of their order, a limit."""

    epochs: int
    tokens_per_step: int
    seed: int = 0
    max_steps: int | None = None


def steps_in_order(
    sizes: Sequence[int], pace: Pace, updates: int = 1, rows_of: RowsOf | None = None
) -> list[Planned]:
    """Every update of the run; a pure function of the sizes of the rows and of the settings.

    Each group of rows stands ``updates`` times in a row. ``rows_of`` gives the rows of an epoch, if not all.
    """
    plan: list[Planned] = []
    for epoch in range(pace.epochs):
        among = rows_of(epoch) if rows_of else range(len(sizes))
        steps = fill_epoch(
            sizes, seed=pace.seed, epoch=epoch, tokens_per_step=pace.tokens_per_step, among=among
        )
        for done, rows in enumerate(steps, start=1):
            size = sum(sizes[row] for row in rows)
            plan += [Planned(tuple(rows), size, round(epoch + done / len(steps), 4))] * updates
        if pace.max_steps and len(plan) >= pace.max_steps:
            return plan[: pace.max_steps]
    return plan


def micro_batches(sequences: Sequence[Tokens], micro_tokens: int) -> list[MicroBatch]:
    """Indices of ``sequences`` that are computed together: one task each, packed best fit."""
    tasks: dict[str, list[int]] = {}
    for index, tokens in enumerate(sequences):
        tasks.setdefault(tokens.task, []).append(index)
    sizes = [tokens.size for tokens in sequences]
    return [micro for indices in tasks.values() for micro in best_fit(indices, sizes, micro_tokens)]


def sampled(plan: Sequence[Planned], train: Sequence[Tokens]) -> list[list[Tokens]]:
    """The rows of some updates, evenly spaced, and of one with the longest row of all."""
    longest = max(range(len(train)), key=lambda row: train[row].size)
    chosen = {*range(0, len(plan), -(-len(plan) // SAMPLED)), len(plan) - 1}
    chosen |= {next((i for i, step in enumerate(plan) if longest in step.rows), 0)}
    return [[train[row] for row in plan[i].rows] for i in sorted(chosen)]


@dataclass(frozen=True)
class Heaviest:
    """The micro-batch that needs most memory, and how many there are at most in one step of ``steps``."""

    sequences: tuple[Tokens, ...]
    in_step: int
    steps: int


def heaviest(steps: Iterable[Sequence[Tokens]], micro_tokens: int) -> Heaviest:
    """Look through the ``sequences`` of every step for the micro-batch that needs most memory.

    Raises ``ValueError`` if there is no step.
    """
    every: list[list[Tokens]] = []
    in_step = count = 0
    for sequences in steps:
        packs = micro_batches(sequences, micro_tokens)
        every += [[sequences[i] for i in pack] for pack in packs]
        in_step, count = max(in_step, len(packs)), count + 1
    if not every:
        raise ValueError("no step, so no micro-batch")
    return Heaviest(tuple(max(every, key=_size)), in_step, count)


def _size(sequences: Iterable[Tokens]) -> tuple[int, int]:
    """Activations grow with the number of tokens; among equals the longest text is the heaviest."""
    sizes = [tokens.size for tokens in sequences]
    return sum(sizes), max(sizes)
