"""AdamW with weight decay on matrices only, and its state as plain named tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def adamw(
    parameters: dict[str, nn.Parameter],
    *,
    weight_decay: float,
    betas: tuple[float, float],
    rate_of: Callable[[str], float] = lambda name: 1.0,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); biases, norms and other vectors are not decayed.

    ``rate_of`` gives the multiple of the learning rate at which the parameter of a name learns.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = weight_decay if parameter.dim() >= 2 else 0.0
        groups.setdefault((rate_of(name), decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": ps, "weight_decay": decay, "times": times} for (times, decay), ps in groups.items()],
        lr=0.0,
        betas=betas,
        fused=True,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group to its multiple of ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["times"]


def optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]
) -> dict[str, Tensor]:
    """``"parameter/slot"`` -> tensor, so that it can be stored as safetensors."""
    found: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for slot, value in optimizer.state.get(parameter, {}).items():
            found[f"{name}/{slot}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return found


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], state: dict[str, Tensor]
) -> None:
    """The inverse of ``optimizer_state``."""
    slots: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        name, _, slot = key.rpartition("/")
        slots.setdefault(name, {})[slot] = value
    for name, parameter in parameters.items():
        if name in slots:
            on_device = {slot: value.to(parameter.device, copy=True) for slot, value in slots[name].items()}
            optimizer.state[parameter] = on_device
