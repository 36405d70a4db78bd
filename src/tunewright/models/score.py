"""New linear output layers on a language model's hidden states: scores of sequences, values of tokens.

They are submodules of the causal language model, named as transformers names the head of its
``…ForSequenceClassification`` models (``score``), and are kept in float32. All start at zero, so the start
needs no seed and the first gradient reaches the head alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunewright.core.errors import ModelError
from tunewright.models.causal import causal_lm
from tunewright.models.placing import placed

HEADS = ("score", "value", "balance")


@dataclass(frozen=True)
class StoredSpec:
    """What ``objectives.base.HeadSpec`` says of a head, read from a file."""

    outputs: int
    pooling: str = "last"
    bias: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredHeads:
    """Heads as they were saved; ``writes`` says whether the model beneath them can still write text."""

    specs: Mapping[str, StoredSpec]
    weights: Mapping[str, Tensor]
    writes: bool


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

    def __init__(self, outputs: int, facts: Mapping[str, Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs))
        self.bias, self.pooling = None, "none"
        self.facts: dict[str, Any] = dict(facts)


def attach(model: Any, heads: Mapping[str, Any]) -> None:
    """Add ``heads`` (name -> ``objectives.base.HeadSpec``) to the causal language model, ready to train."""
    lm = causal_lm(model)
    width = lm.config.get_text_config().hidden_size
    for name, spec in heads.items():
        assert _names_head(name), f"unknown head {name!r}; known: {HEADS}"
        head: nn.Module
        if spec.pooling == "none":
            head = Numbers(spec.outputs, spec.facts)
        else:
            head = ScoreHead(width, spec.outputs, pooling=spec.pooling, bias=spec.bias, facts=spec.facts)
        lm.add_module(name, head.to(next(lm.parameters()).device))


def detach(model: Any) -> None:
    """Take all heads off."""
    lm = causal_lm(model)
    for name in heads_of(lm):
        delattr(lm, name)


def restore(model: Any, stored: StoredHeads) -> None:
    """Put saved heads back on the causal language model, before any adapter wraps it."""
    attach(model, stored.specs)
    for name, head in heads_of(model).items():
        own = head.state_dict()
        saved = {key: stored.weights[f"{name}.{key}"] for key in own if f"{name}.{key}" in stored.weights}
        shapes = {key: tuple(value.shape) for key, value in own.items()}
        if shapes != {key: tuple(value.shape) for key, value in saved.items()}:
            found = {key: list(value.shape) for key, value in stored.weights.items()}
            raise ModelError(f"the head {name} does not fit this model: it needs {shapes}, found {found}")
        head.load_state_dict(saved)
        head.requires_grad_(False)


def heads_of(model: Any) -> dict[str, Any]:
    """The heads that a model carries, by name."""
    lm = causal_lm(model)
    return {name: head for name, head in lm._modules.items() if _names_head(name) and head is not None}


@contextmanager
def heads_of_task(model: Any, task: str) -> Iterator[None]:
    """For a while ``model`` has the heads of one task alone, by the names they have in its own run."""
    every = take_heads_of(model, task)
    try:
        yield
    finally:
        _put(model, every)


def take_heads_of(model: Any, task: str) -> dict[str, Any]:
    """Leave ``model`` the heads of one task, by the names they have in its own run; returns them all."""
    every = heads_of(model)
    named = {tuple(name.split("__", 1)): head for name, head in every.items()}
    _put(model, {name: named[name, task] for name in HEADS if (name, task) in named})
    return every


def _put(model: Any, heads: Mapping[str, Any]) -> None:
    lm = causal_lm(model)
    detach(lm)
    for name, head in heads.items():
        lm.add_module(name, head)


def head_called(model: Any, name: str) -> Any:
    """The head ``name``; raises ``ModelError`` if the model has none."""
    heads = heads_of(model)
    if name not in heads:
        raise ModelError(f"this model has no {name} head; it has {', '.join(heads) or 'none'}")
    return heads[name]


def is_head(parameter: str) -> bool:
    """Whether a parameter's dotted name is that of a head."""
    return any(map(_names_head, parameter.split(".")[:-1]))


def _names_head(part: str) -> bool:
    """``score``, or ``score__intent`` where several tasks have one each."""
    return part.partition("__")[0] in HEADS


def pooled(hidden: Tensor, segments: Sequence[Any], pooling: str) -> Tensor:
    """One state per segment, its prefix included: (T, H) -> (S, H)."""
    if pooling == "last":
        ends = torch.tensor([start + length - 1 for start, length, _ in segments])
        return hidden[placed(ends, hidden.device)]
    sums = torch.stack([hidden[start : start + length].float().sum(0) for start, length, _ in segments])
    sizes = placed(torch.tensor([float(length) for _, length, _ in segments]), hidden.device)
    parents = [(i, parent) for i, (_, _, parent) in enumerate(segments) if parent is not None]
    if parents:
        child, parent = (placed(torch.tensor(ids), hidden.device) for ids in zip(*parents, strict=True))
        sums = sums.index_add(0, child, sums[parent])
        sizes = sizes.index_add(0, child, sizes[parent])
    return sums / sizes[:, None]
