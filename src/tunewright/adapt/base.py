"""Which parameters train. Orthogonal to what is minimised.

An adapter changes a model in place or wraps it; afterwards the parameters to train are simply those with
``requires_grad``. Shapes and names of everything else stay as they were.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from tunewright.core.names import Registry


class Adapter(Protocol):
    """A way of choosing what trains."""

    provides: frozenset[str]  # e.g. {"reference"}: it can be switched off, so the base answers as reference
    label: str  # for people: "LoRA rank 16"

    def attach(self, model: Any) -> nn.Module:
        """Prepare ``model`` for training; the output is unchanged until the first update."""
        ...

    def disabled(self, model: Any) -> AbstractContextManager[None]:
        """Within the context ``model`` answers exactly as the untouched base."""
        ...

    def merged(self, model: Any) -> nn.Module:
        """A plain model with the trained difference folded in."""
        ...

    def save(self, model: Any, directory: Path) -> None:
        """Write the trained part in the format other programs read."""
        ...


ADAPTERS: Registry[Any] = Registry(
    "adapter",
    {
        "full": "tunewright.adapt.full:Full",
        "head": "tunewright.adapt.head:HeadOnly",
        "lora": "tunewright.adapt.lora:Lora",
    },
)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of everything that trains, in the model's own order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """A detached copy on the CPU of everything that trains."""
    return {name: p.detach().cpu().clone() for name, p in trainable(model).items()}


def load_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put ``state`` back; the names must be exactly those that train."""
    own = trainable(model)
    if own.keys() != state.keys():
        missing, extra = sorted(own.keys() - state.keys())[:3], sorted(state.keys() - own.keys())[:3]
        raise ValueError(f"saved weights are of another adapter: missing {missing}, unexpected {extra}")
    for name, parameter in own.items():
        parameter.data.copy_(state[name])
