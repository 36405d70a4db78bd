"""DoRA over the fused LoRA product: rows of weights are scaled, and their norms never need whole matrices.

DoRA (Liu et al. 2024, arXiv 2402.09353) turns rows W_i into m_i (W_i + s B_i A) / |W_i + s B_i A| and takes
the norm for a constant when it differentiates (section 4.3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunewright.adapt.fused_product import Frozen, LoraProduct, frozen
from tunewright.adapt.start import NAME


def dora_product(x: Tensor, a: Tensor, b: Tensor, magnitude: Tensor, base: Frozen, scale: float) -> Tensor:
    """y = f (x Wᵀ + s (x Aᵀ) Bᵀ) + c with f = ``magnitude`` / norms, (out,); the rest as ``LoraProduct``.

    A magnitude of exactly 0 has the gradient nan.
    """
    factor = magnitude / row_norms(base.dense(base.weight), a, b, scale)
    rows = factor.detach()[:, None]
    scaled = base._replace(dense=lambda w: (base.dense(w) * rows).to(base.dtype), bias=None)
    y: Tensor = _Scaled.apply(LoraProduct.apply(x, a, rows * b, scaled, scale), factor)
    return y if base.bias is None else y + base.bias


@torch.no_grad()
def measure_magnitudes(model: nn.Module) -> None:
    """Set every magnitude to the norm that its row has now, in float32: PEFT has it in the base's format, and
    in bfloat16 the model would not start as what it was."""
    for layer in model.modules():
        own: Any = layer
        if not hasattr(own, "lora_magnitude_vector") or NAME not in own.lora_magnitude_vector:
            continue
        a, b, weight = own.lora_A[NAME].weight, own.lora_B[NAME].weight, own.get_base_layer().weight
        base = frozen(own.get_base_layer(), weight)
        if base is not None and not weight.is_meta:
            norms = row_norms(base.dense(weight), a, b, own.scaling[NAME])
            own.lora_magnitude_vector[NAME].weight.copy_(norms)


@torch.no_grad()
def row_norms(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """(out,): the norms of the rows of W + s B A, in the format of ``b``.

    |W_i + s B_i A|² = |W_i|² + 2s B_i (W Aᵀ)_i + s² B_i (A Aᵀ) B_iᵀ, so that B A itself is never made.
    """
    with torch.autocast(weight.device.type, enabled=False):
        own = torch.linalg.vector_norm(weight, dim=1, dtype=b.dtype).square_()
        mixed = (weight @ a.to(weight.dtype).T).to(b.dtype)
        added = b @ (a @ a.T).to(b.dtype)
        return (own + ((2 * scale * mixed + scale**2 * added) * b).sum(1)).clamp_min_(0).sqrt_()


class _Scaled(torch.autograd.Function):
    """Hands on y = f u, which is scaled already, and gives f its gradient: the sum over g u = g y / f."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(y if ctx.needs_input_grad[1] else None, factor)
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        y, factor = ctx.saved_tensors
        if y is None:
            return grad, None
        return grad, (grad * y).flatten(0, -2).sum(0, dtype=factor.dtype) / factor
