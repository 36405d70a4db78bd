"""The fused step of an update that starts elsewhere than at nothing (``start.py``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from tunewright.adapt.fused_product import Frozen


class StartProduct(torch.autograd.Function):
    """y = x Wᵀ + c + s (x Aᵀ Bᵀ - x A0ᵀ B0ᵀ); only W, A0 and B0 are frozen, shapes as in ``LoraProduct``.

    The difference is small beside either part, so both are computed in the format of A (float32) from an x
    that is kept as it came. At the start they are the same to the last bit, and y is that of the base.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, a0: Tensor, b0: Tensor, base: Frozen, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            exact = flat.to(a.dtype)
            inner = exact @ a.T
            moved = (inner @ b.T).sub_((exact @ a0.T) @ b0.T)
            y = linear(flat, base.dense(base.weight), base.bias).add_(moved, alpha=scale)
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
        with torch.autocast(grad.device.type, enabled=False):
            g = grad.reshape(-1, grad.shape[-1])
            exact = g.to(a.dtype)
            gb = exact @ b
            d_x = d_a = d_b = None
            if inner is not None:
                d_b = (exact.T @ inner).mul_(ctx.scale)
            if flat is not None:
                d_a = (gb.T @ flat.to(a.dtype)).mul_(ctx.scale)
            if weight is not None:
                moved = (gb @ a).sub_((exact @ b0) @ a0)
                d_x = (g @ ctx.dense(weight)).add_(moved, alpha=ctx.scale).view(ctx.shape)
        return d_x, d_a, d_b, None, None, None, None
