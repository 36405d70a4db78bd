"""Weights kept in bfloat16, without a float32 copy: every update is rounded at random, so none is lost.

Near 1 the numbers of bfloat16 lie 2**-7 apart, so rounding to the nearest drops every update below 2**-8.
Rounded up with a probability equal to the part that is cut off, the mean of many updates is exact (Gupta et
al. 2015, arXiv 1502.02551; for bfloat16 training Zamirai et al. 2020, arXiv 2010.06192).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.core.hashing import seed_from
from tunewright.engine.slots import Counted

CHUNK = 2**22  # numbers that are worked on at a time, so that float32 copies stay small
EPS = 1e-8
KEPT = -(2**16)  # the upper 16 bits of an int32, which are those of bfloat16


class RoundedAdamW(Counted, torch.optim.Optimizer):
    """AdamW computed in float32 over weights and moments that are kept in the format of the weights.

    Noise is drawn from torch's seed and the name of the parameter: neither the order of updates nor other
    random numbers change it. Parameters in float32 are not rounded.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(list(groups), {"lr": 0.0, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "the gradients are there already"
        for group, name, parameter, grad in with_gradients(self.param_groups):
            memory = self.state[parameter]
            if not memory:
                first, second = torch.zeros_like(parameter), torch.zeros_like(parameter)
                memory.update(step=0, first=first, second=second)
            memory["step"] += 1
            noise = Noise(name, parameter.device)
            for rows in pieces(parameter):
                self._update(group, parameter[rows], grad[rows], memory, rows, noise)

    def _update(
        self,
        group: dict[str, Any],
        weights: Tensor,
        grad: Tensor,
        memory: dict[str, Any],
        rows: Any,
        noise: Noise,
    ) -> None:
        first, second = memory["first"][rows], memory["second"][rows]
        exact = [first.float(), second.float()]
        move = adam(grad.float(), exact[0], exact[1], memory["step"], group["betas"])
        noise.write(first, exact[0])
        noise.write(second, exact[1])
        noise.write(weights, moved(weights, move, group))


class Noise:
    """Random bits for one parameter in one step."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._bits = torch.Generator(device).manual_seed(seed_from(torch.initial_seed(), "round", name))

    def write(self, target: Tensor, exact: Tensor) -> None:
        """Put float32 ``exact`` into ``target``; rounded at random where that is bfloat16."""
        if target.dtype != torch.bfloat16:
            target.copy_(exact)
            return
        noise = torch.empty(exact.shape, dtype=torch.int32, device=exact.device)
        target.copy_(rounded(exact, noise.random_(generator=self._bits)))


def rounded(exact: Tensor, noise: Tensor) -> Tensor:
    """``exact`` (float32) in bfloat16, away from zero with the probability of the part that is cut off.

    ``noise`` is int32 of the same shape, its lower 16 bits uniform; they carry into the upper ones or not.
    """
    bits = exact.contiguous().view(torch.int32) + noise.bitwise_and(0xFFFF)
    low: Tensor = bits.bitwise_and_(KEPT).view(torch.float32).to(torch.bfloat16)
    return low


def adam(grad: Tensor, first: Tensor, second: Tensor, step: int, betas: tuple[float, float]) -> Tensor:
    """The direction of Adam (Kingma & Ba 2015, algorithm 1); moves both moments, all of it in float32."""
    first.lerp_(grad, 1 - betas[0])
    second.mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
    size = (second / (1 - math.pow(betas[1], step))).sqrt_().add_(EPS)
    return (first / (1 - math.pow(betas[0], step))).div_(size)


def moved(weights: Tensor, move: Tensor, group: dict[str, Any]) -> Tensor:
    """The new weights in float32: decayed (Loshchilov & Hutter 2019) and moved against ``move``."""
    rate: float = group["lr"]
    new: Tensor = (weights.float() * (1 - rate * group["weight_decay"])).sub_(move, alpha=rate)
    return new


def with_gradients(
    groups: Sequence[dict[str, Any]],
) -> Iterator[tuple[dict[str, Any], str, nn.Parameter, Tensor]]:
    """Group, name, parameter and gradient of everything that has one."""
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            if parameter.grad is not None:
                yield group, name, parameter, parameter.grad


def pieces(tensor: Tensor) -> list[Any]:
    """Indices of rows that together hold about ``CHUNK`` numbers."""
    if tensor.numel() <= CHUNK:
        return [...]
    rows = max(1, CHUNK * len(tensor) // tensor.numel())
    return [slice(start, start + rows) for start in range(0, len(tensor), rows)]
