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


def _softmax_(logits: Tensor) -> Tensor:
    """``logits`` become their softmax; returns the log-sum-exp of every row."""
    top = logits.amax(-1, keepdim=True)
    total = logits.sub_(top).exp_().sum(-1, keepdim=True)
    logits.div_(total)
    return total.log_().add_(top)[:, 0]


def _bend(logits: Tensor, softcap: float | None) -> Tensor | None:
    """The slope of the soft cap at its outputs."""
    return None if softcap is None else 1 - (logits / softcap).square()


def _slope_(softmax: Tensor, ids: Tensor, bend: Tensor | None) -> Tensor:
    """``softmax`` (n, V) becomes d log p(ids) / d logits, those before a soft cap where there is one."""
    slope = softmax.neg_()
    slope.scatter_add_(1, ids[:, None], torch.ones_like(slope[:, :1]))
    return slope if bend is None else slope.mul_(bend)


def chunks(rows: int, vocabulary: int) -> list[slice]:
    """Pieces of ``rows`` whose float32 logits take at most ``CHUNK_BYTES``; one empty piece of no rows."""
    size = max(1, CHUNK_BYTES // (4 * vocabulary))
    return [slice(i, min(i + size, rows)) for i in range(0, rows, size)] or [slice(0, 0)]


class _TokenLogprobs(torch.autograd.Function):
    """d logp[t] / d logits = onehot(t) - softmax; softcap c multiplies it by 1 - (logit / c)^2.

    Where nothing of the head trains, d logp[t] / d hidden[t] is one row that does not depend on what comes
    after: it is worked out at once, from the logits that are there. Otherwise the logits are computed again.
    """

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
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        ctx.rests = for_hidden and not (for_weight or for_bias or ctx.needs_input_grad[7])
        slopes = torch.empty_like(hidden) if ctx.rests else None
        for rows in chunks(hidden.shape[0], weight.shape[0]):
            logits = _logits(hidden[rows], low, bias, scale, softcap)
            out[rows] = logits.gather(1, ids[rows, None])[:, 0]
            if slopes is None:
                norm[rows] = _logsumexp_(logits)
                continue
            bend = _bend(logits, softcap)
            norm[rows] = _softmax_(logits)
            slopes[rows] = _slope_(logits, ids[rows], bend).mul_(scale).to(hidden.dtype) @ low
        out -= norm
        kept = (slopes,) if ctx.rests else (hidden, weight, bias, ids, norm, row_ids, row_weight)
        ctx.save_for_backward(*kept)
        ctx.scale, ctx.softcap = scale, softcap
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.rests:
            (slopes,) = ctx.saved_tensors
            return (slopes * grad[:, None]).to(slopes.dtype), *[None] * 7
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
            bend = _bend(logits, ctx.softcap)
            d_logits = _slope_(logits.sub_(norm[rows, None]).exp_(), ids[rows], bend)
            d_logits *= grad[rows, None] * ctx.scale
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
