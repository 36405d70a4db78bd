"""Which rows are trained on in which step, and how the rows of a step share micro-batches.

The order of rows is a pure function of (seed, epoch, row index), so it is the same after a resume, on another
machine and for any number of ranks; rows appended to the data change neither key nor relative order of the
others. A step is filled by tokens, not rows, and before any thought of memory: the budget of a micro-batch
changes how a step is computed, never what it computes.

    >>> plan_epoch([5, 3, 4, 2], seed=0, epoch=0, tokens_per_step=8, micro_tokens=6)
    [[(1,), (0,)], [(2, 3)]]
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tunewright.core.hashing import seed_from

MicroBatch = tuple[int, ...]  # row indices that are computed together
Step = list[MicroBatch]  # what one optimizer update sees


def plan_epoch(
    sizes: Sequence[int], *, seed: int, epoch: int, tokens_per_step: int, micro_tokens: int
) -> list[Step]:
    """The steps of one epoch over rows of ``sizes`` tokens; every row stands in exactly one micro-batch.

    Rows are taken in order as long as a step stays within ``tokens_per_step`` (a longer row is a step of its
    own; the last step may be small). Within a step they are packed, best fit first, into micro-batches of at
    most ``micro_tokens`` (a longer row gets one of its own). O(n log n).
    """
    assert tokens_per_step > 0, f"tokens_per_step is {tokens_per_step}, must be positive"
    assert micro_tokens > 0, f"micro_tokens is {micro_tokens}, must be positive"
    steps = fill_epoch(sizes, seed=seed, epoch=epoch, tokens_per_step=tokens_per_step)
    return [best_fit(rows, sizes, micro_tokens) for rows in steps]


def fill_epoch(
    sizes: Sequence[int], *, seed: int, epoch: int, tokens_per_step: int, among: Sequence[int] | None = None
) -> list[list[int]]:
    """The rows of each step of one epoch, ``among`` those given; ``plan_epoch`` before it packs them."""
    rows = range(len(sizes)) if among is None else among
    return _fill_steps(order_of(rows, seed=seed, epoch=epoch), sizes, tokens_per_step)


def shared_rows(tasks: Sequence[str], shares: Mapping[str, float], *, seed: int, epoch: int) -> Sequence[int]:
    """The rows of one epoch in ascending order, where row i is of ``tasks[i]`` and a task has a share.

    A task with n rows gives round(share n), at least one, of them. All epochs together go round and round one
    shuffled circle of its rows, so no row comes k + 1 times before every row of the task came k times.
    """
    if not shares:
        return range(len(tasks))
    members: dict[str, list[int]] = {}
    for row, task in enumerate(tasks):
        members.setdefault(task, []).append(row)
    found = []
    for task, own in members.items():
        rows = np.array(own, dtype=np.uint64)
        circle = rows[np.argsort(_mix(rows, seed_from("row share", seed)), kind="stable")]
        taken = max(1, round(shares.get(task, 1.0) * len(own)))
        found.append(circle[(epoch * taken + np.arange(taken)) % len(own)])
    drawn: list[int] = np.sort(np.concatenate(found)).tolist() if found else []
    return drawn


def total_steps(sizes: Sequence[int], epochs: int, *, seed: int, tokens_per_step: int) -> int:
    """Optimizer updates in ``epochs`` epochs; counted, because each epoch's order fills steps differently."""
    return sum(
        len(_fill_steps(epoch_order(len(sizes), seed=seed, epoch=epoch), sizes, tokens_per_step))
        for epoch in range(epochs)
    )


def epoch_order(rows: int, *, seed: int, epoch: int) -> list[int]:
    """Row indices in the order of the epoch: sorted by a hash of (seed, epoch, index)."""
    return order_of(range(rows), seed=seed, epoch=epoch)


def order_of(rows: Sequence[int], *, seed: int, epoch: int) -> list[int]:
    """``rows`` (ascending) in the order of the epoch; the copies of a row have a hash each."""
    indices = np.asarray(rows, dtype=np.uint64)
    copies = np.arange(len(indices)) - np.searchsorted(indices, indices)
    keys = _mix(indices, seed_from("row order", seed, epoch))
    for copy in range(1, int(copies.max(initial=0)) + 1):
        keys[copies == copy] = _mix(indices[copies == copy], seed_from("row order", seed, epoch, copy))
    order: list[int] = indices[np.argsort(keys, kind="stable")].tolist()
    return order


def best_fit(rows: Sequence[int], sizes: Sequence[int], capacity: int) -> Step:
    """Pack ``rows`` into as few micro-batches as best-fit decreasing finds; at most 11/9 of the optimum + 1.

    Rows keep their order inside a micro-batch, and micro-batches are in the order of their first rows.
    """
    place = {row: position for position, row in enumerate(rows)}
    bins: list[list[int]] = []
    free: list[int] = []  # distinct free capacities of the open bins, ascending
    open_bins: dict[int, list[int]] = {}  # free capacity -> bins that have it
    for row in sorted(rows, key=lambda r: (-sizes[r], place[r])):
        at = bisect_left(free, sizes[row])
        if at < len(free):
            room = free[at]
            index = open_bins[room].pop()
            if not open_bins[room]:
                del open_bins[room], free[at]
            bins[index].append(row)
        else:
            room, index = capacity, len(bins)
            bins.append([row])
        left = room - sizes[row]
        if left >= 0:
            if left not in open_bins:
                insort(free, left)
            open_bins.setdefault(left, []).append(index)
    packed = [sorted(members, key=place.__getitem__) for members in bins]
    return [tuple(members) for members in sorted(packed, key=lambda m: place[m[0]])]


def shard(step: Step, sizes: Sequence[int], *, rank: int, world: int) -> Step:
    """The micro-batches of ``step`` that ``rank`` of ``world`` computes; together the ranks compute the step.

    Largest first to the rank with the fewest tokens. A rank gets an empty list where a step has fewer
    micro-batches than there are ranks; it then adds nothing to the sum.
    """
    assert 0 <= rank < world, f"rank {rank} of {world}"
    loads = [0] * world
    mine: list[int] = []
    tokens = [sum(sizes[row] for row in micro) for micro in step]
    for index in sorted(range(len(step)), key=lambda i: (-tokens[i], i)):
        lightest = loads.index(min(loads))
        loads[lightest] += tokens[index]
        if lightest == rank:
            mine.append(index)
    return [step[index] for index in sorted(mine)]


def _fill_steps(order: Sequence[int], sizes: Sequence[int], budget: int) -> list[list[int]]:
    steps: list[list[int]] = []
    used = 0
    for row in order:
        if not steps or used + sizes[row] > budget:
            steps.append([])
            used = 0
        steps[-1].append(row)
        used += sizes[row]
    return steps


def _mix(values: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """The splitmix64 finaliser (Steele, Lea and Flood 2014) of ``seed + index * golden ratio``."""
    with np.errstate(over="ignore"):
        z = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed
