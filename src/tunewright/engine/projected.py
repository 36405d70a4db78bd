"""Optimizers that remember a matrix in few directions: GaLore and APOLLO.

Of a matrix (m, n) with m <= n (the other way round it is transposed) both keep moments of (rank, n) instead
of (m, n). What is no matrix, or has no side above the rank, is moved by plain AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunewright.core.errors import ConfigError
from tunewright.core.hashing import seed_from
from tunewright.engine.rounding import Noise, adam, moved, pieces, with_gradients
from tunewright.engine.slots import Counted
from tunewright.models.placing import decomposable

GROWTH = 1.01  # APOLLO: how much longer than the update before an update may be
TINY = 1e-30  # no division by zero


@dataclass(frozen=True)
class Projection:
    """``rank`` directions, new ones after ``every`` steps, the update multiplied by ``scale``.

    Without a ``scale`` it is sqrt(m / rank): an update in ``rank`` of m directions becomes as large as that
    of AdamW in all of them, so that the same learning rates fit.
    """

    rank: int = 64
    every: int = 200
    scale: float | None = None

    def applies(self, parameter: Tensor) -> bool:
        """Whether the parameter is a matrix with more than ``rank`` rows and columns."""
        return parameter.dim() == 2 and min(parameter.shape) > self.rank

    def factor(self, short: int) -> float:
        """What the update of a matrix is multiplied by whose shorter side is ``short``."""
        return math.sqrt(short / self.rank) if self.scale is None else self.scale


class Projected(Counted, torch.optim.Optimizer):
    """What GaLore and APOLLO share; they differ in ``_move``."""

    def __init__(
        self, groups: Sequence[dict[str, Any]], betas: tuple[float, float], projection: Projection
    ) -> None:
        super().__init__(list(groups), {"lr": 0.0, "betas": betas})
        self.projection = projection

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "the gradients are there already"
        for group, name, parameter, own in with_gradients(self.param_groups):
            memory = self.state[parameter]
            memory["step"] = memory.get("step", 0) + 1
            grad = own.float()
            if not self.projection.applies(parameter):
                move = _adam(grad, memory, group)
            elif parameter.shape[0] <= parameter.shape[1]:
                move = self._move(grad, memory, group, name)
            else:
                move = self._move(grad.T, memory, group, name).T
            noise = Noise(name, parameter.device)
            for rows in pieces(parameter):
                noise.write(parameter[rows], moved(parameter[rows], move[rows], group))

    def _move(self, grad: Tensor, memory: dict[str, Any], group: dict[str, Any], name: str) -> Tensor:
        """What the weights move against, (m, n) with m <= n as ``grad``; both float32."""
        raise NotImplementedError


class Galore(Projected):
    """GaLore (Zhao et al. 2024, arXiv 2403.03507, algorithm 2): Adam in the main directions of the gradient.

    With U the first ``rank`` left singular vectors of the gradient of some steps ago: W -= lr * scale * U
    Adam(Uᵀ G). Kept are U (m, rank) and two moments (rank, n).
    """

    def _move(self, grad: Tensor, memory: dict[str, Any], group: dict[str, Any], name: str) -> Tensor:
        if (memory["step"] - 1) % self.projection.every == 0:
            memory["directions"] = main_directions(grad, self.projection.rank)
        directions: Tensor = memory["directions"]
        low = _adam(directions.T @ grad, memory, group)
        return (directions @ low).mul_(self.projection.factor(len(grad)))


class Apollo(Projected):
    """APOLLO (Zhu et al. 2024, arXiv 2412.05270, algorithm 1): how far Adam would scale each column of the
    gradient is estimated in ``rank`` random directions, and the gradient itself scaled so.

    With P (rank, m) of N(0, 1 / rank) and R = P G: column j of the update is G_j |Adam(R)_j| / |R_j|, and
    the whole at most ``GROWTH`` times as long as the one before. Kept are two moments (rank, n) and that
    length; P is drawn anew from the name of the parameter.
    """

    def _move(self, grad: Tensor, memory: dict[str, Any], group: dict[str, Any], name: str) -> Tensor:
        turn = (memory["step"] - 1) // self.projection.every
        low = random_directions(self.projection.rank, len(grad), (name, turn), grad.device) @ grad
        scaled = _adam(low, memory, group).norm(dim=0)
        move = grad * (scaled / low.norm(dim=0).clamp_min(TINY))
        return self._limited(move, memory).mul_(self.projection.factor(len(grad)))

    def _limited(self, move: Tensor, memory: dict[str, Any]) -> Tensor:
        """``move``, shortened where it grew too fast; its length is noted."""
        length = move.norm()
        before = memory.get("length", torch.zeros_like(length))
        memory["length"] = torch.where(before > 0, torch.minimum(length, GROWTH * before), length)
        limited: Tensor = move * (memory["length"] / length.clamp_min(TINY))
        return limited


def _adam(grad: Tensor, memory: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Adam's direction for ``grad``, whose moments are in ``memory``."""
    if "first" not in memory:
        memory.update(first=torch.zeros_like(grad), second=torch.zeros_like(grad))
    return adam(grad, memory["first"], memory["second"], memory["step"], group["betas"])


def main_directions(grad: Tensor, rank: int) -> Tensor:
    """The first ``rank`` left singular vectors of ``grad`` (m, n): (m, rank), the strongest first.

    They are the eigenvectors of G Gᵀ, which is (m, m) with m the shorter side: much cheaper than all of the
    singular value decomposition.
    """
    gram = grad @ grad.T
    vectors: Tensor = torch.linalg.eigh(decomposable(gram)).eigenvectors
    return vectors[:, -rank:].flip(1).contiguous().to(grad.device)


def random_directions(rank: int, size: int, seed: tuple[object, ...], device: torch.device) -> Tensor:
    """(rank, size) of N(0, 1 / rank), the same for the same ``seed``."""
    draw = torch.Generator(device).manual_seed(seed_from("directions", *seed))
    return torch.randn(rank, size, generator=draw, device=device) / math.sqrt(rank)


def check_projects(parameters: Sequence[Tensor], projection: Projection) -> None:
    """Raise ``ConfigError`` if nothing would be projected."""
    if not any(projection.applies(parameter) for parameter in parameters):
        largest = max((min(p.shape) for p in parameters if p.dim() == 2), default=0)
        raise ConfigError(
            f"train.optim.projection.rank {projection.rank} saves nothing here: no trained matrix has more"
            f" rows and columns than that (at most {largest}); lower it, or use adamw"
        )
