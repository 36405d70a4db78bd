"""The language model behind whatever wraps it."""

from __future__ import annotations

import math
from typing import Any

from torch import nn


def causal_lm(model: Any) -> Any:
    """The transformers model inside an adapter's wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def number_of_layers(model: Any) -> int:
    """How many layers the decoder of text has, as the config says."""
    return int(causal_lm(model).config.get_text_config().num_hidden_layers)


def decoder_layers(model: Any) -> list[nn.Module]:
    """The layers of the decoder, from below; empty where they are not in one list."""
    count = number_of_layers(model)
    for module in causal_lm(model).get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    return []


def number_of_parameters(model: Any) -> int:
    """How many weights a model has; those in 4 bits lie two to a byte and are counted one by one."""
    states = [(p, getattr(p, "quant_state", None)) for p in model.parameters()]
    return sum(p.numel() if state is None else math.prod(state.shape) for p, state in states)
