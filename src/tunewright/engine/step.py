"""One update: summed losses of all micro-batches, one division by the global count, one optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from tunewright.core.errors import TrainError
from tunewright.objectives.base import Batch, LossOut


class StepStats(NamedTuple):
    """Mean loss and metrics per weighted token, and the gradient's norm before clipping."""

    loss: float
    grad_norm: float
    metrics: dict[str, float]


def train_step(
    batches: Sequence[Batch],
    loss_of: Callable[[Batch], LossOut],
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    clip_norm: float,
    where: Callable[[Sequence[int]], str],
) -> StepStats:
    """One update over ``batches``; ``where`` names rows for messages.

    Raises ``TrainError`` at the first non-finite loss or gradient; the update is then not applied.
    """
    total = count = 0.0
    sums: dict[str, float] = {}
    for batch in batches:
        out = loss_of(batch)
        value = float(out.total.detach())
        if not math.isfinite(value):
            raise TrainError(
                f"the loss is {value} at {where(batch.rows)}; the update was not applied."
                " Lower train.learning_rate, or set model.dtype=float32"
            )
        out.total.backward()  # type: ignore[no-untyped-call]
        total, count = total + value, count + float(out.count)
        for name, metric in out.metrics.items():
            sums[name] = sums.get(name, 0.0) + float(metric)
    if count == 0:
        raise TrainError(f"nothing to learn in {where(batches[0].rows)}: no token has a weight")
    norm = scale_and_clip(parameters, 1.0 / count, clip_norm)
    if not math.isfinite(norm):
        raise TrainError(
            f"the gradient norm is {norm} at {where(batches[0].rows)}; the update was not applied"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepStats(total / count, norm, {name: value / count for name, value in sums.items()})


def scale_and_clip(parameters: list[nn.Parameter], scale: float, max_norm: float) -> float:
    """Multiply all gradients by ``scale``, then shrink them to ``max_norm``; returns the norm before that."""
    grads = [p.grad for p in parameters if p.grad is not None]
    torch._foreach_mul_(grads, scale)
    norm = float(torch.nn.utils.get_total_norm(grads))
    if max_norm > 0 and math.isfinite(norm) and norm > max_norm:
        torch._foreach_mul_(grads, max_norm / norm)
    return norm
