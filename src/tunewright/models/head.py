"""Log-probabilities of chosen tokens without a tokens x vocabulary tensor.

The head's products are computed in pieces of bounded size, so memory does not grow with the number of
supervised tokens; what a head that trains needs for its own gradient is computed once more in the backward
pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tunewright.models.softmax import bend, capped_, softmax_
from tunewright.models.token_rows import Rows

# Float32 logits of a piece, by kind of device. Within a call all pieces use the same memory: fresh memory
# costs a CPU as much as the softmax.
CHUNK_BYTES = {"cpu": 32 * 2**20}
CHUNK_BYTES_ELSEWHERE = 128 * 2**20


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
        logits = (hidden @ weight.T).float()
        if self.bias is not None:
            logits = logits + self.bias.float()
        logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def logprobs(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """log p(ids) under softmax of the logits: (N, H), (N,) -> (N,) float32, differentiable."""
        result: Tensor = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
            hidden, self.weight, self.bias, ids, self.scale, self.softcap, *(self.rows or (None, None))
        )
        return result


def _with_rows(weight: Tensor, rows: Rows | None) -> Tensor:
    return weight if rows is None else weight.index_copy(0, rows.ids, rows.weight.to(weight.dtype))


class _Space(NamedTuple):
    """Memory for the logits of a piece: as they are multiplied, and in float32, which may be the same."""

    product: Tensor
    exact: Tensor

    @classmethod
    def like(cls, hidden: Tensor, weight: Tensor) -> _Space:
        """For the largest piece of ``hidden`` (N, H)."""
        rows = max(piece.stop - piece.start for piece in chunks(len(hidden), weight))
        product = hidden.new_empty(rows, len(weight))
        return cls(product, product if product.dtype == torch.float32 else product.float())

    def logits(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None
    ) -> Tensor:
        """(n, V) float32, in place of whatever was here."""
        product, exact = self.product[: len(hidden)], self.exact[: len(hidden)]
        torch.mm(hidden, weight.T, out=product)
        if exact.data_ptr() != product.data_ptr():
            exact.copy_(product)
        if bias is not None:
            exact += bias.float()
        if scale != 1.0:
            exact *= scale
        return capped_(exact, softcap)

    def narrow(self, exact: Tensor) -> Tensor:
        """The float32 numbers in the format of the products."""
        product = self.product[: len(exact)]
        return exact if product.data_ptr() == exact.data_ptr() else product.copy_(exact)


def _slope_(softmax: Tensor, ids: Tensor, cap: Tensor | None) -> Tensor:
    """``softmax`` (n, V) becomes -d log p(ids) / d logits; ``cap`` is the slope of a soft cap."""
    slope = softmax.scatter_add_(1, ids[:, None], -torch.ones_like(softmax[:, :1]))
    return slope if cap is None else slope.mul_(cap)


def chunks(rows: int, weight: Tensor) -> list[slice]:
    """Pieces of ``rows`` whose float32 logits, by ``weight`` (V, H), are small; an empty one of no rows."""
    size = max(1, CHUNK_BYTES.get(weight.device.type, CHUNK_BYTES_ELSEWHERE) // (4 * len(weight)))
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
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        ctx.rests = for_hidden and not (for_weight or for_bias or ctx.needs_input_grad[7])
        slopes = torch.empty_like(hidden) if ctx.rests else None
        space = _Space.like(hidden, weight)
        for rows in chunks(hidden.shape[0], weight):
            logits = space.logits(hidden[rows], low, bias, scale, softcap)
            chosen = logits.gather(1, ids[rows, None])[:, 0]
            cap = bend(logits, softcap) if ctx.rests else None
            out[rows] = chosen - softmax_(logits)
            if slopes is not None:
                slope = space.narrow(_slope_(logits, ids[rows], cap))
                slopes[rows] = (slope @ low).mul_(-scale)
        kept = (slopes,) if ctx.rests else (hidden, weight, bias, ids, row_ids, row_weight)
        ctx.save_for_backward(*kept)
        ctx.scale, ctx.softcap = scale, softcap
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.rests:
            (slopes,) = ctx.saved_tensors
            return (slopes * grad[:, None]).to(slopes.dtype), *[None] * 7
        hidden, weight, bias, ids, row_ids, row_weight = ctx.saved_tensors
        low = _low(hidden, weight, row_ids, row_weight)
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        d_bias = (
            torch.zeros_like(bias, dtype=torch.float32)
            if bias is not None and ctx.needs_input_grad[2]
            else None
        )
        d_rows = None if row_weight is None else torch.zeros_like(row_weight, dtype=torch.float32)
        space = _Space.like(hidden, weight)
        for rows in chunks(hidden.shape[0], weight):
            logits = space.logits(hidden[rows], low, bias, ctx.scale, ctx.softcap)
            cap = bend(logits, ctx.softcap)
            softmax_(logits)
            d_logits = _slope_(logits, ids[rows], cap)
            d_logits *= grad[rows, None] * -ctx.scale
            narrow = space.narrow(d_logits)
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
