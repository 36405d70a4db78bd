"""Every parameter trains, or by turns a few layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tunewright.adapt.base import Method, Names
from tunewright.adapt.depth import decayed, depth_of
from tunewright.adapt.options.weights import FullOptions
from tunewright.core.errors import ConfigError
from tunewright.core.hashing import seed_from
from tunewright.models.causal import number_of_layers

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Full(Method):
    """Full fine-tuning. With ``sample_layers`` it is LISA (Pan et al. 2024, arXiv 2403.17919): embeddings and
    output layer move at every step, and as many layers, drawn anew every ``sample_every`` steps."""

    label = "full"
    whole = True

    def __init__(self, method: str, options: FullOptions) -> None:
        self.options = options
        self.weights = self.reloads = FORMATS[options.weights]
        narrow = " in bfloat16" if options.weights == "bfloat16" else ""
        turns = f", {options.sample_layers} layers at a time" if options.sample_layers else ""
        self.label = f"full{narrow}{turns}"
        self._layers = 0

    def attach(self, model: Any) -> nn.Module:
        """Unfreeze everything. Raises ``ConfigError`` if dropout is asked of a model that has none, or more
        layers than there are."""
        model.requires_grad_(True)
        self._layers = number_of_layers(model)
        if self.options.dropout > 0:
            touched = [m for m in model.modules() if hasattr(m, "attention_dropout")]
            for module in touched:
                module.attention_dropout = self.options.dropout
            if not touched:
                raise ConfigError("adapt.dropout: this model has no dropout to set; use weight_decay instead")
        if self.options.sample_layers > self._layers:
            raise ConfigError(
                f"adapt.sample_layers {self.options.sample_layers}: this model has {self._layers} layers"
            )
        return model  # type: ignore[no-any-return]

    def rate_of(self, name: str) -> float:
        """``layer_decay`` once for every layer above the parameter's own."""
        return decayed(name, self._layers, self.options.layer_decay)

    def active(self, step: int, steps: int, seed: int) -> Names | None:
        """The layers whose turn it is, and what is in no layer."""
        if not self.options.sample_layers:
            return None
        draw = torch.Generator().manual_seed(
            seed_from(seed, "layers", (step - 1) // self.options.sample_every)
        )
        order = torch.randperm(self._layers, generator=draw)[: self.options.sample_layers]
        turn = {int(layer) + 1 for layer in order}
        outside = {0, self._layers + 1}
        return lambda name: depth_of(name, self._layers) in turn | outside
