"""New linear output layers on a language model's hidden states: scores of sequences, values of tokens.

They are submodules of the causal language model, named as transformers names the head of its
``…ForSequenceClassification`` models (``score``), and are kept in float32. All start at zero, so the start
needs no seed and the first gradient reaches the head alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewright.core.errors import ModelError

HEADS = ("score", "value", "balance")


class ScoreHead(nn.Module):
    """(n, H) hidden states -> (n, K) numbers; ``pooling`` says which state of a sequence is read."""

    def __init__(
        self, width: int, outputs: int, *, pooling: str, bias: bool, facts: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, width))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.pooling, self.facts = pooling, dict(facts)

    def forward(self, states: Tensor) -> Tensor:
        """In float32, whatever the trunk computes in."""
        with torch.autocast(states.device.type, enabled=False):
            return F.linear(states.float(), self.weight, self.bias)


class Numbers(nn.Module):
    """K trained numbers that depend on no input."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs))
        self.facts: dict[str, Any] = {}


def attach(model: Any, heads: Mapping[str, Any]) -> None:
    """Add ``heads`` (name -> ``objectives.base.HeadSpec``) to the causal language model, ready to train."""
    lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    width = lm.config.get_text_config().hidden_size
    for name, spec in heads.items():
        assert name in HEADS, f"unknown head {name!r}; known: {HEADS}"
        head: nn.Module
        if spec.pooling == "none":
            head = Numbers(spec.outputs)
        else:
            head = ScoreHead(width, spec.outputs, pooling=spec.pooling, bias=spec.bias, facts=spec.facts)
        lm.add_module(name, head.to(next(lm.parameters()).device))


def heads_of(model: Any) -> dict[str, Any]:
    """The heads that a model carries, by name."""
    lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {name: lm._modules[name] for name in HEADS if lm._modules.get(name) is not None}


def head_called(model: Any, name: str) -> Any:
    """The head ``name``; raises ``ModelError`` if the model has none."""
    heads = heads_of(model)
    if name not in heads:
        raise ModelError(f"this model has no {name} head; it has {', '.join(heads) or 'none'}")
    return heads[name]


def is_head(parameter: str) -> bool:
    """Whether a parameter's dotted name is that of a head."""
    return any(part in HEADS for part in parameter.split(".")[:-1])


def pooled(hidden: Tensor, segments: Sequence[Any], pooling: str) -> Tensor:
    """One state per segment, its prefix included: (T, H) -> (S, H)."""
    if pooling == "last":
        ends = torch.tensor([start + length - 1 for start, length, _ in segments], device=hidden.device)
        return hidden[ends]
    sums = torch.stack([hidden[start : start + length].float().sum(0) for start, length, _ in segments])
    sizes = torch.tensor([float(length) for _, length, _ in segments], device=hidden.device)
    parents = [(i, parent) for i, (_, _, parent) in enumerate(segments) if parent is not None]
    if parents:
        child, parent = (torch.tensor(ids, device=hidden.device) for ids in zip(*parents, strict=True))
        sums = sums.index_add(0, child, sums[parent])
        sizes = sizes.index_add(0, child, sizes[parent])
    return sums / sizes[:, None]
