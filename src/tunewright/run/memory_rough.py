"""More memory than training will take, by a formula: where even that is there, nothing needs rehearsing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from tunewright.adapt.base import trainable
from tunewright.core.records import Tokens
from tunewright.run.compose import Parts

MB = 2**20
FIXED = 768 * MB  # kernels, and the logits of a piece in every form that they take
PER_TRAINED = 20  # bytes: weight, gradient, two moments, and one that passes
CAST = 8  # bytes for each weight of a model that trains itself: copies to compute with, and their gradients
WIDE = 12  # bytes for each number of the vocabulary's matrix where that trains: gradients in float32
KEPT = 2.5  # for every number that goes into a matrix or comes out of it: activations, and their gradients
PIECES = 1.6  # what a process holds for every byte that lives, see memory_plan
LEAN = frozenset(
    {"full", "freeze", "head", "lora", "rslora", "dora", "longlora", "qlora", "bottleneck"}
    | {"prompt", "prefix", "ptuning"}
)  # methods that make no copy of whole matrices; others of PEFT make up to three in float32


def rough(parts: Parts, method: str, train: Sequence[Tokens], tokens: int) -> int:
    """Bytes of training with ``tokens`` at once, the program left out; no memory saver is counted.

    Held above the rehearsal of ``memory_plan`` by tests over methods and families.
    """
    model, adapter = cast(Any, parts.loaded.model), parts.adapter
    size = parts.loaded.precision.dtype.itemsize
    weights = sum(p.nbytes for p in model.parameters())
    hidden = model.config.get_text_config().hidden_size
    vocabulary = model.get_input_embeddings().weight.numel()
    numbers = sum(p.numel() for p in trainable(parts.shell).values())
    trained = PER_TRAINED * numbers
    if adapter.whole:
        trained += CAST * parts.loaded.parameters + WIDE * vocabulary
    if method not in LEAN:
        trained += 12 * parts.loaded.parameters
    per_token = _through(model, vocabulary) + (0 if adapter.whole else numbers / hidden)
    kept = KEPT * size * per_token * _at_once(train, tokens, adapter.virtual)
    return int(weights + trained + FIXED + PIECES * kept)


def _at_once(train: Sequence[Tokens], tokens: int, virtual: int) -> int:
    """The most tokens that a micro-batch may hold, those before each of its texts included."""
    sizes = [row.size for row in train]
    most = max(tokens, max(sizes))
    return most + virtual * math.ceil(most / min(sizes))


def _through(model: nn.Module, vocabulary: int) -> int:
    """Numbers that go into all matrices of the layers, and come out of them, for one token."""
    found = 0
    for module in model.modules():
        shapes = [tuple(p.shape) for p in module.parameters(recurse=False) if p.dim() > 1]
        if hasattr(module, "in_features"):  # weights in few bits lie in another shape
            shapes = [(int(cast(Any, module).out_features), int(cast(Any, module).in_features))]
        for shape in shapes:
            if math.prod(shape) != vocabulary:  # the ends of the model keep ids, and pieces of logits
                found += math.prod(shape[:-2]) * (shape[-2] + shape[-1])
    return found
