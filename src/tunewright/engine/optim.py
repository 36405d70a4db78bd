"""AdamW with weight decay on matrices only, and its state as plain named tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def adamw(
    parameters: dict[str, nn.Parameter], *, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); biases, norms and other vectors are not decayed."""
    matrices = [p for p in parameters.values() if p.dim() >= 2]
    vectors = [p for p in parameters.values() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=betas, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


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
