"""A part of the model's own weights trains; the rest stays as it is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from tunewright.adapt.base import Method, Names
from tunewright.adapt.depth import decayed, depth_of
from tunewright.adapt.options.weights import FreezeOptions
from tunewright.core.errors import ConfigError
from tunewright.core.names import nearest
from tunewright.models.causal import number_of_layers

FEW = 30.0  # where so few numbers train they need larger steps: see ``peft_kinds.RATES`` for ``ln_tuning``


class Freeze(Method):
    """Train the last layers, named modules, embeddings, normalisations, or biases (BitFit, Ben Zaken et al.
    2021, arXiv 2106.10199). All weights are kept in float32: with two formats in one model, its own forward,
    which writes answers, could not compute.

    Layers may thaw one by one from the last down (Howard & Ruder 2018, arXiv 1801.06146).
    """

    whole = True
    weights = reloads = torch.float32

    def __init__(self, method: str, options: FreezeOptions) -> None:
        self.options = options
        what = {"layers": f"last {options.layers} layers", "modules": ", ".join(options.modules)}
        self.label = f"{what.get(options.train, options.train)} only"
        self.rate = FEW if options.train in ("norms", "biases") else 1.0
        self._layers = 0

    def attach(self, model: Any) -> nn.Module:
        """Freeze all but the part. Raises ``ConfigError`` where the model has no such part."""
        self._layers = number_of_layers(model)
        chosen = self._chosen(model)
        for parameter in model.parameters():
            parameter.requires_grad_(any(parameter is c for c in chosen))
        model.float()
        return model  # type: ignore[no-any-return]

    def rate_of(self, name: str) -> float:
        """``layer_decay`` once for every layer above the parameter's own."""
        return decayed(name, self._layers, self.options.layer_decay)

    def active(self, step: int, steps: int, seed: int) -> Names | None:
        """The layers that have thawed by ``step``: one at the start, all after the share ``unfreeze``."""
        if not self.options.unfreeze:
            return None
        period = self.options.unfreeze * steps
        thawed = min(self.options.layers, 1 + math.floor((step - 1) * self.options.layers / period))
        return lambda name: depth_of(name, self._layers) > self._layers - thawed

    def _chosen(self, model: Any) -> list[nn.Parameter]:
        options = self.options
        if options.train == "layers":
            if options.layers > self._layers:
                raise ConfigError(f"adapt.layers {options.layers}: this model has {self._layers}; use full")
            head = model.get_output_embeddings()
            head_parameters = [] if head is None else list(head.parameters())
            return [
                p
                for name, p in model.named_parameters()
                if depth_of(name, self._layers) > self._layers - options.layers
                and not any(p is h for h in head_parameters)
            ]
        if options.train == "embeddings":
            return list(model.get_input_embeddings().parameters())
        if options.train == "biases":
            chosen = [p for name, p in model.named_parameters() if name.endswith("bias")]
            if not chosen:
                raise ConfigError("adapt.train 'biases': this model has none; use norms")
            return chosen
        if options.train == "norms":
            return [p for m in model.modules() if _is_norm(m) for p in m.parameters(recurse=False)]
        return self._named(model)

    def _named(self, model: Any) -> list[nn.Parameter]:
        modules = {name: m for name, m in model.named_modules() if name and any(True for _ in m.parameters())}
        chosen: list[nn.Parameter] = []
        for wanted in self.options.modules:
            found = [m for name, m in modules.items() if name == wanted or name.endswith("." + wanted)]
            if not found:
                leaves = {*modules, *(name.rsplit(".", 1)[-1] for name in modules)}
                raise ConfigError(f"adapt.modules: no module {wanted!r}. {nearest(wanted, leaves)}")
            chosen += [p for m in found for p in m.parameters()]
        return chosen


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__ and not any(True for _ in module.children())
