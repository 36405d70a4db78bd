"""The fused step of an update that starts elsewhere than at nothing (``start.py``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from tunewright.adapt.fused_product import Frozen

ROWS = 256  # of x at a time: what is computed in a wider format stays small


class StartProduct(torch.autograd.Function):
    """y = x Wᵀ + c + s (x Aᵀ Bᵀ - x A0ᵀ B0ᵀ); W, A0 and B0 are frozen, shapes are as in ``LoraProduct``.

    The difference is small beside either part, so both are computed in the format of A (float32) from an x
    that is kept as it came. At the start they are the same to the last bit, and y is that of the base.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, a0: Tensor, b0: Tensor, base: Frozen, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        inner = a.new_empty(len(flat), len(a))
        with torch.autocast(x.device.type, enabled=False):
            y = linear(flat, base.dense(base.weight), base.bias)
            for rows in _pieces(len(flat)):
                exact = flat[rows].to(a.dtype)
                torch.mm(exact, a.T, out=inner[rows])
                y[rows].add_((inner[rows] @ b.T).sub_((exact @ a0.T) @ b0.T), alpha=scale)
        for_x, for_a, for_b = ctx.needs_input_grad[:3]
        ctx.save_for_backward(
            flat if for_a else None, inner if for_b else None, base.weight if for_x else None, a, b, a0, b0
        )
        ctx.dense, ctx.scale, ctx.shape = base.dense, scale, x.shape
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, inner, weight, a, b, a0, b0 = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1])
        with torch.autocast(grad.device.type, enabled=False):
            d_x = None if weight is None else g @ ctx.dense(weight)
            d_a = None if flat is None else torch.zeros_like(a)
            d_b = None if inner is None else torch.zeros_like(b)
            for rows in _pieces(len(g)):
                exact = g[rows].to(a.dtype)
                gb = exact @ b
                if d_b is not None:
                    d_b.addmm_(exact.T, inner[rows], alpha=ctx.scale)
                if d_a is not None:
                    d_a.addmm_(gb.T, flat[rows].to(a.dtype), alpha=ctx.scale)
                if d_x is not None:
                    d_x[rows].add_((gb @ a).sub_((exact @ b0) @ a0), alpha=ctx.scale)
        return None if d_x is None else d_x.view(ctx.shape), d_a, d_b, None, None, None, None


def _pieces(count: int) -> list[slice]:
    return [slice(i, i + ROWS) for i in range(0, count, ROWS)]
