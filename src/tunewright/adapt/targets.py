"""Which layers an adapter sits on: from what the recipe says to names that PEFT understands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from tunewright.core.errors import ConfigError
from tunewright.core.names import nearest

LINEAR = (nn.Linear, Conv1D)
PARTS = {
    "attention": re.compile(r"\.(?:self_attn|attn|attention|self_attention)\."),
    "mlp": re.compile(r"\.(?:mlp|feed_forward|ffn)\."),
}


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """Name -> layer of everything linear but the output layer, which no word of ``PARTS`` means."""
    head = model.get_output_embeddings()
    return {name: m for name, m in model.named_modules() if isinstance(m, LINEAR) and m is not head}


def conv_layers(layers: Mapping[str, nn.Module]) -> list[str]:
    """Names of those whose weight lies the other way round, (inputs, outputs), as in GPT-2."""
    return [name for name, layer in layers.items() if isinstance(layer, Conv1D)]


def shape_of(layer: Any) -> tuple[int, int]:
    """(outputs, inputs) of a linear layer, whichever way round its weight lies."""
    if hasattr(layer, "in_features"):
        return layer.out_features, layer.in_features
    inputs, outputs = layer.weight.shape
    return outputs, inputs


def resolved(model: Any, targets: list[str] | str) -> tuple[list[str], dict[str, nn.Module]]:
    """Names for PEFT's ``target_modules``, and the layers they mean.

    Raises ``ConfigError`` with the nearest names for a target that matches nothing.
    """
    layers = linear_layers(model)
    if isinstance(targets, str):
        if targets != "all-linear" and targets not in PARTS:
            raise ConfigError(
                f"adapt.targets {targets!r}: give a list of layer names, or one of all-linear,"
                f" {', '.join(PARTS)}"
            )
        meant = {n: m for n, m in layers.items() if targets == "all-linear" or PARTS[targets].search(n)}
        if not meant:
            raise ConfigError(
                f"adapt.targets {targets!r} matches no layer of {type(model).__name__}; give a list of"
                f" names, for example {_leaf(next(iter(layers), 'q_proj'))}"
            )
        return short_names(meant, layers), meant
    head = {n: m for n, m in model.named_modules() if m is model.get_output_embeddings()}
    return targets, _meant("linear layer", targets, {**layers, **head})


def norm_layers(model: Any, targets: list[str] | str) -> list[str]:
    """Names of the normalisations that ``targets`` mean; by default all.

    Raises ``ConfigError`` with the nearest names for a target that matches none.
    """
    norms = {n: m for n, m in model.named_modules() if type(m).__name__.lower().endswith(("norm", "norm1d"))}
    if isinstance(targets, list):
        _meant("normalisation", targets, norms)
        return targets
    if targets != "all-linear":
        raise ConfigError(f"adapt.targets {targets!r}: normalisations train here; give a list of their names")
    return sorted({_leaf(name) for name in norms})


def last_of_mlp(model: Any, layers: Mapping[str, nn.Module]) -> list[str]:
    """Names for PEFT of the layers among ``layers`` that end an MLP: those that write the model's width."""
    width = int(model.config.get_text_config().hidden_size)
    inside = {n: m for n, m in layers.items() if PARTS["mlp"].search(n)}
    last: dict[str, str] = {}  # the MLP -> its last layer in the order of the model
    for name, layer in inside.items():
        if shape_of(layer)[0] == width:
            last[PARTS["mlp"].split(name)[0]] = name
    return short_names({name: layers[name] for name in last.values()}, linear_layers(model))


def short_names(meant: Mapping[str, nn.Module], layers: Iterable[str]) -> list[str]:
    """Ends of names that mean ``meant`` and no other of ``layers``, as short as they can be."""
    others = set(layers) - set(meant)
    leaves = sorted({_leaf(name) for name in meant})
    clear = [leaf for leaf in leaves if not any(_leaf(name) == leaf for name in others)]
    rest = {_clear_end(name, others) for name in meant if _leaf(name) not in clear}
    return [*clear, *sorted(rest)]


def _clear_end(name: str, others: Iterable[str]) -> str:
    """The shortest end of ``name`` that none of ``others`` has."""
    parts = name.split(".")
    ends = (".".join(parts[-n:]) for n in range(2, len(parts)))
    return next((e for e in ends if not any(o.endswith("." + e) for o in others)), name)


def _meant(kind: str, targets: list[str], known: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    if not targets:
        raise ConfigError("adapt.targets is empty; name a layer, or leave it at all-linear")
    meant: dict[str, nn.Module] = {}
    for target in targets:
        found = {n: m for n, m in known.items() if n == target or n.endswith("." + target)}
        if not found:
            close = nearest(target, {_leaf(name) for name in known})
            raise ConfigError(f"adapt.targets: no {kind} {target!r}. {close}")
        meant |= found
    return meant


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]
