"""One update: the losses of all micro-batches, each divided by a count known before, then one step.

A GPU is waited for once in an update, before the backward pass that completes the gradient: only there are
numbers read that it has computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tunewright.core.errors import TrainError
from tunewright.engine.lanes import Lanes, add, slopes
from tunewright.objectives.base import Batch, Forward, LossOut, Mean, Objective

Where = Callable[[Sequence[int]], str]  # row indices -> words for messages


class Tally:
    """Adds up the losses and metrics of batches whose counts were added up before.

    The loss of a batch is divided by the count of its task over all ``batches``, so the gradient does not
    depend on how a step is cut into micro-batches. Numbers stay where they were computed until they are read.
    """

    def __init__(self, objective: Objective, batches: Iterable[Batch]) -> None:
        self.counts: dict[str, Tensor] = {}  # by task
        for batch in batches:
            count = objective.count(batch).detach().float()
            self.counts[batch.task] = self.counts.get(batch.task, torch.zeros_like(count)) + count
        self._outs: list[tuple[Batch, Tensor, dict[str, Mean]]] = []
        self._known: _Numbers | None = None

    def add(self, batch: Batch, out: LossOut) -> Tensor:
        """Note ``out`` and return the batch's share of the whole loss, to be differentiated."""
        self._outs.append((batch, out.total.detach(), out.metrics))
        self._known = None
        return self.share(batch, out)

    def share(self, batch: Batch, out: LossOut) -> Tensor:
        """The batch's share of the whole loss."""
        return out.total / self.counts[batch.task]

    def check(self, where: Where) -> None:
        """Raise ``TrainError`` for a task in which nothing has a weight, and for the first loss that is not
        finite."""
        known = self._read()
        for task, count in known.counts.items():
            if count == 0:
                rows = [row for batch, _, _ in self._outs if batch.task == task for row in batch.rows]
                raise TrainError(f"nothing to learn in {where(rows)}: nothing in them has a weight")
        for (batch, _, _), total in zip(self._outs, known.totals, strict=True):
            if not math.isfinite(total):
                raise TrainError(
                    f"the loss is {total} at {where(batch.rows)}; the update was not applied."
                    " Lower train.learning_rate, or set model.dtype=float32"
                )

    @property
    def losses(self) -> dict[str, float]:
        """The mean loss of each task."""
        known = self._read()
        found = dict.fromkeys(self.counts, 0.0)
        for (batch, _, _), total in zip(self._outs, known.totals, strict=True):
            found[batch.task] += total / known.counts[batch.task]
        return found

    @property
    def loss(self) -> float:
        """The mean loss, or the sum of the tasks' mean losses."""
        return sum(self.losses.values())

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric that had anything to divide by, and the loss of each task where there are several."""
        sums: dict[str, tuple[float, float]] = {}
        for name, (more, by) in self._read().means:
            total, weight = sums.get(name, (0.0, 0.0))
            sums[name] = (total + more, weight + by)
        tasks = {f"{task}_loss": loss for task, loss in self.losses.items()} if len(self.counts) > 1 else {}
        return {**tasks, **{name: total / weight for name, (total, weight) in sums.items() if weight}}

    def _read(self) -> _Numbers:
        """All numbers so far, in one go, so that a GPU is asked once and not for each of them."""
        if self._known is None:
            means = [(name, mean) for _, _, found in self._outs for name, mean in found.items()]
            totals = [total for _, total, _ in self._outs]
            tensors = [*self.counts.values(), *totals, *(part for _, mean in means for part in mean)]
            read = iter(_numbers(tensors))
            counts = {task: next(read) for task in self.counts}
            self._known = _Numbers(
                counts,
                [next(read) for _ in totals],
                [(name, (next(read), next(read))) for name, _ in means],
            )
        return self._known


class _Numbers(NamedTuple):
    """What a ``Tally`` holds as plain numbers: counts by task, totals of batches, (total, weight) by name."""

    counts: dict[str, float]
    totals: list[float]
    means: list[tuple[str, tuple[float, float]]]


def _numbers(tensors: Sequence[Tensor]) -> list[float]:
    """The values of tensors of one number each, in the finest of their formats, float32 at least."""
    if not tensors:
        return []
    finest = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    there = tensors[0].device
    read: list[float] = torch.stack([t.detach().to(there, finest).reshape(()) for t in tensors]).tolist()
    return read


def backward(
    batches: Sequence[Batch],
    objective: Objective,
    forward: Forward,
    where: Where,
    penalty: Callable[[], Tensor | None] = lambda: None,
    last: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Tally:
    """Add the gradient of the whole step to the parameters; ``where`` names rows for messages.

    ``penalty`` is a further term of the loss, which does not depend on the batches. ``last`` stands around
    the backward pass that completes the gradient; all losses are known to be finite by then.
    Raises ``TrainError`` at the first non-finite loss, and for a task in which nothing has a weight.
    """
    tally = Tally(objective, batches)
    for left, batch in zip(range(len(batches) - 1, -1, -1), batches, strict=True):
        share = tally.add(batch, objective.loss(forward, batch))
        if left:
            share.backward()  # type: ignore[no-untyped-call]
            continue
        term = penalty()
        tally.check(where)
        with last():
            (share if term is None else share + term).backward()  # type: ignore[no-untyped-call]
    return tally


def backward_in_lanes(
    lanes: Lanes,
    parameters: Sequence[nn.Parameter],
    batches: Sequence[Batch],
    objective: Objective,
    forward: Forward,
    where: Where,
    penalty: Callable[[], Tensor | None] = lambda: None,
) -> Tally:
    """``backward`` with several batches at a time; ``parameters`` are those that may have a gradient.

    Raises ``RandomError`` where losses draw random numbers; the gradient is of no use then.
    """
    tally = Tally(objective, batches)

    def one(batch: Batch) -> tuple[LossOut, list[Tensor | None]]:
        out = objective.loss(forward, batch)
        found = slopes(tally.share(batch, out), parameters)
        return LossOut(out.total.detach(), out.metrics), found

    for batch, (out, found) in zip(batches, lanes.run(one, batches), strict=True):
        tally.add(batch, out)
        add(parameters, found)
    term = penalty()
    tally.check(where)
    if term is not None:
        term.backward()  # type: ignore[no-untyped-call]
    return tally


def clip(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Shrink all gradients to ``max_norm`` (0 leaves them); returns their norm before that."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(grads))
    if max_norm > 0 and math.isfinite(norm) and norm > max_norm:
        torch._foreach_mul_(grads, max_norm / norm)
    return norm
