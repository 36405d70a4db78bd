"""The optimizers by name, in groups by decay and learning rate, and how their state is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tunewright.engine.bits import IN_BITS, make_bits
from tunewright.engine.offload import Offloaded
from tunewright.engine.projected import Apollo, Galore, Projection
from tunewright.engine.rounding import RoundedAdamW
from tunewright.engine.slots import AdamW, Optimizer

Name = Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "galore", "apollo"]
PROJECTED = {"galore": Galore, "apollo": Apollo}


@dataclass(frozen=True)
class OptimSettings:
    """How weights move. ``projection`` is of GaLore and APOLLO."""

    name: Name = "adamw"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    projection: Projection = field(default_factory=Projection)
    in_backward: bool = False  # update each parameter as soon as its gradient is there
    offload: bool = False  # keep the optimizer's state on the CPU


def make_optimizer(
    parameters: Mapping[str, nn.Parameter],
    settings: OptimSettings,
    rate_of: Callable[[str], float] = lambda name: 1.0,
) -> Optimizer:
    """Biases, norms and other vectors are not decayed; weights in bfloat16 are rounded at random.

    ``rate_of`` gives the multiple of the learning rate at which the parameter of a name learns. Raises
    ``ConfigError`` where a library is missing.
    """
    groups: dict[tuple[float, float], dict[str, nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = settings.weight_decay if parameter.dim() >= 2 else 0.0
        groups.setdefault((rate_of(name), decay), {})[name] = parameter
    listed = [
        {"params": [*group.values()], "names": [*group], "weight_decay": decay, "times": times}
        for (times, decay), group in groups.items()
    ]
    make = partial(_make, settings)
    return Offloaded(listed, make) if settings.offload else make(listed)


def _make(settings: OptimSettings, groups: Sequence[dict[str, Any]]) -> Optimizer:
    """The optimizer that the settings name, over ``groups``."""
    name, betas = settings.name, settings.betas
    if name in PROJECTED:
        return PROJECTED[name](groups, betas, settings.projection)
    parameters = [parameter for group in groups for parameter in group["params"]]
    if name in IN_BITS:
        chosen: Optimizer = make_bits(name, groups, betas, parameters[0].device)
        return chosen
    if any(parameter.dtype == torch.bfloat16 for parameter in parameters):
        return RoundedAdamW(groups, betas)
    return AdamW(list(groups), lr=0.0, betas=betas, fused=True)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of every group to its multiple of ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["times"]


def optimizer_state(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """``"parameter/slot"`` -> tensor, so that it can be stored as safetensors."""
    return {
        f"{name}/{slot}": value
        for name, parameter in parameters.items()
        for slot, value in optimizer.slots(parameter).items()
    }


def load_optimizer_state(
    optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]
) -> None:
    """The inverse of ``optimizer_state``."""
    slots: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name, _, slot = key.rpartition("/")
        slots.setdefault(name, {})[slot] = value
    for name in parameters.keys() & slots.keys():
        optimizer.restore(parameters[name], slots[name])
