"""Log-probabilities of chosen tokens without a tokens x vocabulary tensor.

The head's products are computed in pieces of bounded size, and once more in the backward pass, so memory
does not grow with the number of supervised tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Head:
    """The output layer: logits = softcap(scale * (hidden @ weight.T + bias)); ``weight`` is (V, H)."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (N, V) float32; for probes and single positions, not for whole batches."""
        return _logits(hidden, self.weight.to(hidden.dtype), self.bias, self.scale, self.softcap)

    def logprobs(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """log p(ids) under softmax of the logits: (N, H), (N,) -> (N,) float32, differentiable."""
        result: Tensor = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
            hidden, self.weight, self.bias, ids, self.scale, self.softcap
        )
        return result


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    logits = (hidden @ weight.T).float()
    if bias is not None:
        logits += bias.float()
    if scale != 1.0:
        logits *= scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def chunks(rows: int, vocabulary: int) -> list[slice]:
    """Pieces of ``rows`` whose float32 logits take at most ``CHUNK_BYTES``; one empty piece of no rows."""
    size = max(1, CHUNK_BYTES // (4 * vocabulary))
    return [slice(i, min(i + size, rows)) for i in range(0, rows, size)] or [slice(0, 0)]


class _TokenLogprobs(torch.autograd.Function):
    """d logp[t] / d logits = onehot(t) - softmax; softcap c multiplies it by 1 - (logit / c)^2."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        low = weight.to(hidden.dtype)
        out = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        norm = torch.empty_like(out)
        for rows in chunks(hidden.shape[0], weight.shape[0]):
            logits = _logits(hidden[rows], low, bias, scale, softcap)
            norm[rows] = logits.logsumexp(-1)
            out[rows] = logits.gather(1, ids[rows, None])[:, 0] - norm[rows]
        ctx.save_for_backward(hidden, weight, bias, ids, norm)
        ctx.scale, ctx.softcap = scale, softcap
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ids, norm = ctx.saved_tensors
        low = weight.to(hidden.dtype)
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        d_bias = (
            torch.zeros_like(bias, dtype=torch.float32)
            if bias is not None and ctx.needs_input_grad[2]
            else None
        )
        for rows in chunks(hidden.shape[0], weight.shape[0]):
            logits = _logits(hidden[rows], low, bias, ctx.scale, ctx.softcap)
            slope = None if ctx.softcap is None else 1 - (logits / ctx.softcap).square()
            d_logits = logits.sub_(norm[rows, None]).exp_().neg_()
            d_logits.scatter_add_(1, ids[rows, None], torch.ones_like(d_logits[:, :1]))
            d_logits *= grad[rows, None] * ctx.scale
            if slope is not None:
                d_logits *= slope
            narrow = d_logits.to(hidden.dtype)
            if d_hidden is not None:
                d_hidden[rows] = narrow @ low
            if d_weight is not None:
                d_weight += narrow.T @ hidden[rows]
            if d_bias is not None:
                d_bias += d_logits.sum(0)
        if d_weight is not None:
            d_weight = d_weight.to(weight.dtype)
        return d_hidden, d_weight, d_bias, None, None, None
