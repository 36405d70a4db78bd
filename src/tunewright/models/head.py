"""Log-probabilities of chosen tokens without a tokens x vocabulary tensor.

The head's products are computed in pieces of bounded size, and once more in the backward pass, so memory
does not grow with the number of supervised tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunewright.models.token_rows import Rows

CHUNK_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class Head:
    """The output layer: logits = softcap(scale * (hidden @ weight.T + bias)); ``weight`` is (V, H).

    ``rows`` train by themselves and stand for rows of ``weight``.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    rows: Rows | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, H) -> (N, V) float32; for probes and single positions, not for whole batches."""
        weight = _with_rows(self.weight.to(hidden.dtype), self.rows)
        return _logits(hidden, weight, self.bias, self.scale, self.softcap)

    def logprobs(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """log p(ids) under softmax of the logits: (N, H), (N,) -> (N,) float32, differentiable."""
        result: Tensor = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
            hidden, self.weight, self.bias, ids, self.scale, self.softcap, *(self.rows or (None, None))
        )
        return result


def _with_rows(weight: Tensor, rows: Rows | None) -> Tensor:
    return weight if rows is None else weight.index_copy(0, rows.ids, rows.weight.to(weight.dtype))


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    logits = (hidden @ weight.T).float()
    if bias is not None:
        logits += bias.float()
    if scale != 1.0:
        logits *= scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _logsumexp_(logits: Tensor) -> Tensor:
    """Of every row; ``logits`` is overwritten, as torch's own needs as much memory again."""
    top = logits.amax(-1, keepdim=True)
    return logits.sub_(top).exp_().sum(-1).log_().add_(top[:, 0])


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
        row_ids: Tensor | None,
        row_weight: Tensor | None,
    ) -> Tensor:
        low = _low(hidden, weight, row_ids, row_weight)
        out = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        norm = torch.empty_like(out)
        for rows in chunks(hidden.shape[0], weight.shape[0]):
            logits = _logits(hidden[rows], low, bias, scale, softcap)
            out[rows] = logits.gather(1, ids[rows, None])[:, 0]
            norm[rows] = _logsumexp_(logits)
        out -= norm
        ctx.save_for_backward(hidden, weight, bias, ids, norm, row_ids, row_weight)
        ctx.scale, ctx.softcap = scale, softcap
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ids, norm, row_ids, row_weight = ctx.saved_tensors
        low = _low(hidden, weight, row_ids, row_weight)
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        d_bias = (
            torch.zeros_like(bias, dtype=torch.float32)
            if bias is not None and ctx.needs_input_grad[2]
            else None
        )
        d_rows = None if row_weight is None else torch.zeros_like(row_weight, dtype=torch.float32)
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
            if d_rows is not None:
                d_rows += narrow[:, row_ids].T @ hidden[rows]
            if d_bias is not None:
                d_bias += d_logits.sum(0)
        if d_weight is not None:
            d_weight = d_weight.to(weight.dtype)
        if d_rows is not None:
            d_rows = d_rows.to(row_weight.dtype)
        return d_hidden, d_weight, d_bias, None, None, None, None, d_rows


def _low(hidden: Tensor, weight: Tensor, row_ids: Tensor | None, row_weight: Tensor | None) -> Tensor:
    """The weight in the format of the computation, with the rows that train in place."""
    assert row_weight is None or not weight.requires_grad, (
        "rows train by themselves only where the rest rests"
    )
    rows = None if row_ids is None or row_weight is None else Rows(row_ids, row_weight)
    return _with_rows(weight.to(hidden.dtype), rows)
