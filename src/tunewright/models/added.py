"""What an adapter added to a model, found by what its modules are and not by what they are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from tunewright.models.bottleneck import Bottleneck, bottlenecks_of, switched_off
from tunewright.models.rope import as_before


def added_to(model: nn.Module) -> set[nn.Parameter]:
    """The weights of PEFT's layers and of bottlenecks, which compute in whatever format their input has.

    Copies of whole modules that PEFT trains (``modules_to_save``) are not among them.
    """
    found: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, Bottleneck):
            found |= set(module.parameters())
        elif isinstance(module, BaseTunerLayer):
            parts = {*module.adapter_layer_names}
            found |= {p for name, p in module.named_parameters() if name.split(".")[0] in parts}
    return found


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Within the context a model that was loaded with an adapter answers as its base."""
    with as_before(model), switched_off(model) if bottlenecks_of(model) else model.disable_adapter():
        yield
