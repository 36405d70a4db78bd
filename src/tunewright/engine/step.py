"""One update: the losses of all micro-batches, each divided by a count known before, then one step.

A GPU is waited for once in an update, before the backward pass that completes the gradient: only there are
numbers read that it has computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from tunewright.core.errors import TrainError
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

    def add(self, batch: Batch, out: LossOut) -> Tensor:
        """Note ``out`` and return the batch's share of the whole loss, to be differentiated."""
        self._outs.append((batch, out.total.detach(), out.metrics))
        return out.total / self.counts[batch.task]

    def check(self, where: Where) -> None:
        """Raise ``TrainError`` for a task in which nothing has a weight, and for the first loss that is not
        finite."""
        for task, count in self.counts.items():
            if float(count) == 0:
                rows = [row for batch, _, _ in self._outs if batch.task == task for row in batch.rows]
                raise TrainError(f"nothing to learn in {where(rows)}: nothing in them has a weight")
        for batch, total, _ in self._outs:
            if not math.isfinite(value := float(total)):
                raise TrainError(
                    f"the loss is {value} at {where(batch.rows)}; the update was not applied."
                    " Lower train.learning_rate, or set model.dtype=float32"
                )

    @property
    def losses(self) -> dict[str, float]:
        """The mean loss of each task."""
        found = dict.fromkeys(self.counts, 0.0)
        for batch, total, _ in self._outs:
            found[batch.task] += float(total) / float(self.counts[batch.task])
        return found

    @property
    def loss(self) -> float:
        """The mean loss, or the sum of the tasks' mean losses."""
        return sum(self.losses.values())

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric that had anything to divide by, and the loss of each task where there are several."""
        sums: dict[str, tuple[float, float]] = {}
        for _, _, means in self._outs:
            for name, mean in means.items():
                total, weight = sums.get(name, (0.0, 0.0))
                sums[name] = (total + float(mean.total), weight + float(mean.weight))
        tasks = {f"{task}_loss": loss for task, loss in self.losses.items()} if len(self.counts) > 1 else {}
        return {**tasks, **{name: total / weight for name, (total, weight) in sums.items() if weight}}


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


def clip(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Shrink all gradients to ``max_norm`` (0 leaves them); returns their norm before that."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(grads))
    if max_norm > 0 and math.isfinite(norm) and norm > max_norm:
        torch._foreach_mul_(grads, max_norm / norm)
    return norm
