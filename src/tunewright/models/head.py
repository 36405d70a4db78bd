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

from tunewright.models.native import ops as native
from tunewright.models.softmax import bend, capped_, softmax_
from tunewright.models.token_rows import Rows

# Logits of a piece, by kind of device. Within a call all pieces use the same memory: fresh memory
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
    """Memory for the logits of a piece: as they are multiplied, and in float32, which may be the same.

    The compiled kernel works on the products as they are, so there is no ``exact`` for it.
    """

    pieces: list[slice]
    product: Tensor
    exact: Tensor | None

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> _Space:
        """For ``hidden`` (N, H), in pieces."""
        compiled = bias is None and native.known(hidden)
        pieces = chunks(len(hidden), weight, hidden.element_size() if compiled else 4)
        product = hidden.new_empty(max(piece.stop - piece.start for piece in pieces), len(weight))
        if compiled:
            return cls(pieces, product, None)
        return cls(pieces, product, product if product.dtype == torch.float32 else product.float())

    def chosen(
        self,
        hidden: Tensor,
        head: tuple[Tensor, Tensor | None, float, float | None],
        ids: Tensor,
        factors: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """log p(ids), (n,) float32, of states (n, H) under a head of weight, bias, scale and soft cap.

        With ``factors`` (n,) also the gradient of -factor log p by the scaled logits before the cap: (n, V),
        in the format of the products, to be used before the next call.
        """
        weight, bias, scale, softcap = head
        product = self.product[: len(hidden)]
        torch.mm(hidden, weight.T, out=product)
        if self.exact is None:
            found = native.choose_(product, ids, scale, softcap, factors)
            return found, None if factors is None else product
        exact = self.exact[: len(hidden)]
        if exact.data_ptr() != product.data_ptr():
            exact.copy_(product)
        if bias is not None:
            exact += bias.float()
        if scale != 1.0:
            exact *= scale
        capped_(exact, softcap)
        found, cap = exact.gather(1, ids[:, None])[:, 0], None if factors is None else bend(exact, softcap)
        found = found - softmax_(exact)
        if factors is None:
            return found, None
        slopes = exact.scatter_add_(1, ids[:, None], -torch.ones_like(exact[:, :1])).mul_(factors[:, None])
        slopes = slopes if cap is None else slopes.mul_(cap)
        return found, slopes if slopes.data_ptr() == product.data_ptr() else product.copy_(slopes)


def chunks(rows: int, weight: Tensor, each: int = 4) -> list[slice]:
    """Pieces of ``rows`` whose logits by ``weight`` (V, H), of ``each`` bytes, are small; at least one."""
    size = max(1, CHUNK_BYTES.get(weight.device.type, CHUNK_BYTES_ELSEWHERE) // (each * len(weight)))
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
        factors = out.new_ones(len(out)) if ctx.rests else None
        space, head = _Space.of(hidden, weight, bias), (low, bias, scale, softcap)
        for rows in space.pieces:
            part = None if factors is None else factors[rows]
            out[rows], slope = space.chosen(hidden[rows], head, ids[rows], part)
            if slopes is not None and slope is not None:
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
        space, head = _Space.of(hidden, weight, bias), (low, bias, ctx.scale, ctx.softcap)
        factors = (grad * -ctx.scale).float()
        for rows in space.pieces:
            _, narrow = space.chosen(hidden[rows], head, ids[rows], factors[rows])
            assert narrow is not None
            if d_hidden is not None:
                d_hidden[rows] = narrow @ low
            if d_weight is not None:
                d_weight += narrow.T @ hidden[rows]
            if d_rows is not None:
                d_rows += narrow[:, row_ids].T @ hidden[rows]
            if d_bias is not None:
                d_bias += narrow.sum(0, dtype=torch.float32)
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
