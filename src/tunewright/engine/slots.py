"""What an optimizer remembers of each parameter, as tensors that can be stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Optimizer(Protocol):
    """What the engine needs of an optimizer; every group of parameters has ``params``, ``names``, ``lr``."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups, whose ``lr`` may be set."""
        ...

    def step(self) -> Any:
        """Update every parameter that has a gradient."""
        ...

    def slots(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What is remembered of ``parameter``, on the CPU; empty if it never moved."""
        ...

    def restore(self, parameter: nn.Parameter, slots: Mapping[str, Tensor]) -> None:
        """The inverse of ``slots``."""
        ...

    def forget(self, parameter: nn.Parameter) -> None:
        """Remember nothing of ``parameter`` and free the memory."""
        ...


class Slots:
    """The usual way: every value is stored as it is."""

    state: Any  # parameter -> name -> value

    def slots(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Every value as a tensor."""
        return stored(self.state.get(parameter, {}).items())

    def restore(self, parameter: nn.Parameter, slots: Mapping[str, Tensor]) -> None:
        """Copies, where the parameter is."""
        self.state[parameter] = {name: value.to(parameter.device, copy=True) for name, value in slots.items()}

    def forget(self, parameter: nn.Parameter) -> None:
        """Drop its state."""
        self.state.pop(parameter, None)


class Counted(Slots):
    """Steps are counted in whole numbers, on the CPU."""

    def restore(self, parameter: nn.Parameter, slots: Mapping[str, Tensor]) -> None:
        """Copies, where the parameter is; the count as a number."""
        super().restore(parameter, {name: value for name, value in slots.items() if name != "step"})
        self.state[parameter]["step"] = int(slots["step"])


class AdamW(Slots, torch.optim.AdamW):
    """Torch's own, fused."""


def stored(values: Iterable[tuple[str, Any]]) -> dict[str, Tensor]:
    """Numbers and tensors as tensors on the CPU."""
    return {name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in values}
