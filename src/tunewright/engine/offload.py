"""The optimizer on the CPU: gradients go down, new weights come up, moments never leave it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.engine.slots import Optimizer


class Offloaded:
    """Runs the optimizer that ``make`` gives over pinned copies on the CPU of the parameters in ``groups``.

    The copies are filled anew at every step, so whatever else changes a weight (a resumed run, an adapter
    that takes ranks away) is not overwritten.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], make: Callable[[Sequence[dict[str, Any]]], Optimizer]
    ) -> None:
        self._hosts = {p: nn.Parameter(_pinned(p)) for group in groups for p in group["params"]}
        self.inner = make([{**g, "params": [self._hosts[p] for p in g["params"]]} for g in groups])

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the optimizer on the CPU."""
        return self.inner.param_groups

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        moving = {p: host for p, host in self._hosts.items() if p.grad is not None}
        for parameter, host in moving.items():
            host.copy_(parameter, non_blocking=True)
            host.grad = _pinned(parameter)
            host.grad.copy_(parameter.grad, non_blocking=True)
        _wait(moving)
        self.inner.step()
        for parameter, host in moving.items():
            parameter.copy_(host, non_blocking=True)
            host.grad = None
        _wait(moving)

    def slots(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What is remembered of ``parameter``."""
        return self.inner.slots(self._hosts[parameter])

    def restore(self, parameter: nn.Parameter, slots: Mapping[str, Tensor]) -> None:
        """The inverse of ``slots``."""
        self.inner.restore(self._hosts[parameter], slots)

    def forget(self, parameter: nn.Parameter) -> None:
        """Drop its moments."""
        self.inner.forget(self._hosts[parameter])


def _pinned(like: Tensor) -> Tensor:
    """Memory on the CPU that a GPU reaches without a further copy."""
    pinned: Tensor = torch.empty(
        like.shape, dtype=like.dtype, device="cpu", pin_memory=torch.cuda.is_available()
    )
    return pinned


def _wait(parameters: Mapping[nn.Parameter, nn.Parameter]) -> None:
    """Until every copy that is under way has arrived."""
    for device in {p.device for p in parameters if p.device.type == "cuda"}:
        torch.cuda.synchronize(device)
