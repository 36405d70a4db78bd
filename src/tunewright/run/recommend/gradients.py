"""The gradient of every row by itself, at the factors of a LoRA adapter, from one backward pass over many.

The rows of a packed batch do not see each other, so the gradient that reaches the output of a layer at a
token belongs to that token's row. With x what enters a layer and g = dL/dy what comes back, a row with the
tokens t has  dB = s sum_t g_t (A x_t)ᵀ  and  dA = s sum_t (Bᵀ g_t) x_tᵀ:  two thin products per row, in place
of one backward pass per row.

The adapter starts with A and B both random and B A = 0 (PEFT's ``orthogonal``). So the model answers exactly
as its base, as with the usual B = 0, but there dL/dA vanishes and half of the adapter would be
unheard. Xia et al. (2024) warm the adapter up instead, on a part of the training data; that takes longer, and
with several candidates it has to favour one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from tunewright.core.records import Tokens
from tunewright.engine.batch import packed
from tunewright.objectives.base import Batch, Forward, Objective
from tunewright.run.recommend.projection import Projection

ADAPTER = "default"  # PEFT's name for the only adapter of a model
Sink = Callable[[str, Tensor], None]  # name of a factor, gradients (segments, numbers in the factor)


@dataclass(frozen=True)
class Reader:
    """Gradients of rows at the adapter of ``model``, projected. ``micro_tokens`` are computed at once."""

    model: nn.Module
    forward: Forward
    objective: Objective
    projection: Projection
    micro_tokens: int = 1024

    def read(
        self, rows: Sequence[Sequence[Tokens]], progress: Callable[[int], None] = lambda n: None
    ) -> Tensor:
        """One unit vector per row, (rows, size) float32; a row is the sum of its sequences.

        ``progress`` hears how many sequences are done. A row whose gradient is zero stays zero.
        """
        owners = [row for row, sequences in enumerate(rows) for _ in sequences]
        flat = [tokens for sequences in rows for tokens in sequences]
        found = torch.zeros(len(rows), self.projection.size)
        done = 0
        for batch in packed(flat, self.micro_tokens, next(self.model.parameters()).device):
            sums = torch.zeros(len(batch.segments), self.projection.size)
            per_row(self.model, self.forward, self.objective, batch, partial(self.projection.add, sums))
            found.index_add_(0, torch.tensor([owners[i] for i in batch.rows]), sums)
            done += len(batch.segments)
            progress(done)
        return unit(found)


def unit(vectors: Tensor) -> Tensor:
    """``vectors`` (n, d) made of length 1; zero stays zero. So no row counts more for being long."""
    scaled: Tensor = vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return scaled


def per_row(model: nn.Module, forward: Forward, objective: Objective, batch: Batch, sink: Sink) -> None:
    """Give ``sink`` the gradients of every segment of ``batch`` (no branches), factor by factor, on the CPU.

    The summed loss of a segment is differentiated. Gradients of parameters are as before afterwards.
    """
    assert all(segment.parent is None for segment in batch.segments), "a branch belongs to several rows"
    parts = [slice(start, start + length) for start, length, _ in batch.segments]
    trained = [p for p in model.parameters() if p.requires_grad]
    with _listening(model, parts, sink):
        total = objective.loss(forward, batch).total
        torch.autograd.grad(total, trained, allow_unused=True)


@contextmanager
def _listening(model: nn.Module, parts: Sequence[slice], sink: Sink) -> Iterator[None]:
    """Within it every LoRA layer passes the gradients of its factors on to ``sink``."""
    layers: dict[str, Any] = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    assert layers, "the model has no LoRA layer"
    handles = [
        layer.register_forward_hook(partial(_heard, name, parts, sink)) for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _heard(name: str, parts: Sequence[slice], sink: Sink, layer: Any, args: Any, out: Tensor) -> None:
    x = args[0].detach().reshape(-1, args[0].shape[-1])

    def arrived(grad: Tensor) -> None:
        for factor, block in _factors(layer, x, grad.reshape(-1, grad.shape[-1]), parts):
            sink(f"{name}.{factor}", block)

    out.register_hook(arrived)  # type: ignore[no-untyped-call]


def _factors(layer: Any, x: Tensor, grad: Tensor, parts: Sequence[slice]) -> Iterator[tuple[str, Tensor]]:
    """dA and dB of each part, (parts, numbers in the factor) float32."""
    a, b = (factor[ADAPTER].weight.detach().float() for factor in (layer.lora_A, layer.lora_B))
    scale, x, grad = layer.scaling[ADAPTER], x.float(), grad.float()
    inner, back = x @ a.T, grad @ b
    yield "A", torch.stack([(back[p].T @ x[p]).flatten() for p in parts]).mul_(scale).cpu()
    yield "B", torch.stack([(grad[p].T @ inner[p]).flatten() for p in parts]).mul_(scale).cpu()
