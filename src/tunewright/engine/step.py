"""One update: the losses of all micro-batches, each divided by a count known before, then one step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from tunewright.core.errors import TrainError
from tunewright.objectives.base import Batch, Forward, LossOut, Objective

Where = Callable[[Sequence[int]], str]  # row indices -> words for messages


class Tally:
    """Adds up the losses and metrics of batches whose counts were added up before.

    The loss of a batch is divided by the count of its task over all ``batches``, so the gradient does not
    depend on how a step is cut into micro-batches.
    """

    def __init__(self, objective: Objective, batches: Iterable[Batch]) -> None:
        self.counts: dict[str, float] = {}
        for batch in batches:
            self.counts[batch.task] = self.counts.get(batch.task, 0.0) + float(objective.count(batch))
        self.losses = dict.fromkeys(self.counts, 0.0)
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, batch: Batch, out: LossOut) -> Tensor:
        """Note ``out`` and return the batch's share of the whole loss, to be differentiated."""
        self.losses[batch.task] += float(out.total.detach()) / self.counts[batch.task]
        for name, mean in out.metrics.items():
            total, weight = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (total + float(mean.total), weight + float(mean.weight))
        return out.total / self.counts[batch.task]

    @property
    def loss(self) -> float:
        """The mean loss, or the sum of the tasks' mean losses."""
        return sum(self.losses.values())

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric that had anything to divide by, and the loss of each task where there are several."""
        tasks = {f"{task}_loss": loss for task, loss in self.losses.items()} if len(self.losses) > 1 else {}
        return {**tasks, **{name: total / weight for name, (total, weight) in self._sums.items() if weight}}


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
    for task, count in tally.counts.items():
        if count == 0:
            rows = [row for batch in batches if batch.task == task for row in batch.rows]
            raise TrainError(f"nothing to learn in {where(rows)}: nothing in them has a weight")
    for left, batch in zip(range(len(batches) - 1, -1, -1), batches, strict=True):
        share = tally.add(batch, _finite_loss(batch, objective, forward, where))
        if left:
            share.backward()  # type: ignore[no-untyped-call]
            continue
        term = penalty()
        with last():
            (share if term is None else share + term).backward()  # type: ignore[no-untyped-call]
    return tally


def _finite_loss(batch: Batch, objective: Objective, forward: Forward, where: Where) -> LossOut:
    out = objective.loss(forward, batch)
    value = float(out.total.detach())
    if not math.isfinite(value):
        raise TrainError(
            f"the loss is {value} at {where(batch.rows)}; the update was not applied."
            " Lower train.learning_rate, or set model.dtype=float32"
        )
    return out


def clip(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Shrink all gradients to ``max_norm`` (0 leaves them); returns their norm before that."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(grads))
    if max_norm > 0 and math.isfinite(norm) and norm > max_norm:
        torch._foreach_mul_(grads, max_norm / norm)
    return norm
