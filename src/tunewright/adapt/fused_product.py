"""The product of a LoRA layer over a frozen weight as one autograd step, and what it needs of that weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from tunewright.core.errors import ModelError
from tunewright.models.quantised import bits_of, dequantised, multiplies_dense

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)  # what autocast turns into its own format


class Frozen(NamedTuple):
    """The weight of a layer as the product needs it."""

    weight: Tensor  # as it is stored; kept for the backward pass
    bias: Tensor | None  # (out,), in ``dtype``
    dense: Callable[[Tensor], Tensor]  # from the stored weight to (out, in), in ``dtype``
    dtype: torch.dtype  # in which to multiply
    gives: torch.dtype  # of the layer's result


def frozen(layer: Any, x: Tensor) -> Frozen | None:
    """What the product of ``x`` needs of ``layer``; None for a layer that trains or that we do not know.

    Raises ``ModelError`` for a 4-bit layer that has lost its gradient.
    """
    if not untouched(layer) or any(p.requires_grad for p in layer._parameters.values() if p is not None):
        return None
    cast = _autocast(x)
    if type(layer) in (nn.Linear, Conv1D):
        return _of_floats(layer, cast or x.dtype, FLOATS if cast else (x.dtype,))
    return _of_few_bits(layer, x, cast or x.dtype) if bits_of(layer) else None


def untouched(layer: nn.Module) -> bool:
    """Whether nobody watches ``layer`` or has put another forward in its place: we would pass both by."""
    own = layer.__dict__
    return ("forward" not in own or multiplies_dense(layer)) and not any(own[hooks] for hooks in HOOKS)


class LoraProduct(torch.autograd.Function):
    """y = x Wᵀ + c + s (x Aᵀ) Bᵀ with W (out, in) frozen, A (rank, in), B (out, rank), x (..., in).

    With g = dL/dy:  dB = s gᵀ(x Aᵀ),  dA = s (g B)ᵀ x,  dx = g W + s (g B) A. All products are in the format
    of x, as autocast has them. A weight stored otherwise is made dense in both passes and never kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, base: Frozen, scale: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        inner = flat @ a.to(x.dtype).T
        y = linear(flat, base.dense(base.weight), base.bias)
        y.addmm_(inner, b.to(x.dtype).T, alpha=scale)
        for_x, for_a, for_b = ctx.needs_input_grad[:3]
        ctx.save_for_backward(
            flat if for_a else None, inner if for_b else None, base.weight if for_x else None, a, b
        )
        ctx.dense, ctx.scale, ctx.shape = base.dense, scale, x.shape
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, inner, weight, a, b = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            g = grad.reshape(-1, grad.shape[-1])
            gb = g @ b.to(g.dtype)
            d_x = d_a = d_b = None
            if inner is not None:
                d_b = (g.T @ inner).to(b.dtype).mul_(ctx.scale)
            if flat is not None:
                d_a = (gb.T @ flat).to(a.dtype).mul_(ctx.scale)
            if weight is not None:
                d_x = (g @ ctx.dense(weight)).addmm_(gb, a.to(g.dtype), alpha=ctx.scale).view(ctx.shape)
        return d_x, d_a, d_b, None, None


def _autocast(x: Tensor) -> torch.dtype | None:
    """The format that autocast gives to a product with ``x``, if it is on."""
    kind = x.device.type
    on = x.dtype in FLOATS and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else None


def _of_floats(layer: Any, dtype: torch.dtype, known: tuple[torch.dtype, ...]) -> Frozen | None:
    weight, bias = layer.weight, layer.bias
    given = [weight] if bias is None else [weight, bias]
    if any(type(p) is not nn.Parameter or p.dtype not in known for p in given):
        return None  # quantised or sharded tensors have classes of their own
    bias = None if bias is None else bias.to(dtype)
    turned = type(layer) is Conv1D  # its weight is (in, out)
    return Frozen(weight, bias, lambda w: w.to(dtype).T if turned else w.to(dtype), dtype, dtype)


def _of_few_bits(layer: Any, x: Tensor, dtype: torch.dtype) -> Frozen | None:
    ours = multiplies_dense(layer)
    if not ours and not _is_dense_product(layer, x, dtype):
        return None
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return Frozen(layer.weight, bias, lambda _: dequantised(layer, dtype), dtype, dtype if ours else x.dtype)


def _is_dense_product(layer: Any, x: Tensor, dtype: torch.dtype) -> bool:
    """Whether bitsandbytes itself multiplies with the dense weight in ``dtype``; in 8 bits it never does."""
    state = getattr(layer.weight, "quant_state", None)
    if state is None or (layer.compute_dtype or x.dtype) != dtype or layer.in_features % state.blocksize:
        return False
    if not getattr(state, "packing_format_for_cpu", False):
        return True
    if torch.is_grad_enabled() and x.requires_grad:
        raise ModelError(
            "bitsandbytes has stored a 4-bit weight anew for answering, which has no gradient any more; load"
            " the model with tunewright.models.load"
        )
    return False
