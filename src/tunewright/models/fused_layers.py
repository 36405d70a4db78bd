"""Root-mean-square norms and gated feed-forward layers in one pass over memory each, by the compiled kernels.

A layer's forward is replaced where it gives the model's own numbers, which is tried out on the layer itself,
so no family needs to be known by name. Per call: what the kernels do not take goes through the model's own
forward. For the backward pass a norm keeps its input and one number a row, instead of float32 copies, and a
feed-forward layer the two halves, but not the activation of one.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tunewright.models.native import ops as native

VARIANTS = ((0.0, False), (1.0, True), (0.0, True))  # what is added to the weight; rounded late (Gemma's way)
HALVES = ("gate_proj", "up_proj", "down_proj", "act_fn")


def fuse_layers(model: nn.Module) -> int:
    """Replace the forward of every layer that is known by what it computes; returns how many have it now."""
    count = 0
    own: Any
    for own in model.modules():
        if "forward" in own.__dict__:
            count += getattr(own.forward, "__func__", None) in (_norm, _gated)
        elif (variant := _norm_variant(own)) is not None:
            own.fused_variant, own.forward = variant, types.MethodType(_norm, own)
            count += 1
        elif (kind := _gate_kind(own)) is not None:
            own.fused_gate, own.forward = kind, types.MethodType(_gated, own)
            count += 1
    return count


def _norm(self: Any, x: Tensor) -> Any:
    if not native.known(x, self.weight):
        return type(self).forward(self, x)
    return _Norm.apply(x, self.weight, _eps(self), *self.fused_variant)  # type: ignore[no-untyped-call]


def _gated(self: Any, x: Tensor) -> Any:
    gate, up = self.gate_proj(x), self.up_proj(x)
    if gate.dtype == up.dtype and native.known(gate, up):
        return self.down_proj(_Glu.apply(gate, up, self.fused_gate))  # type: ignore[no-untyped-call]
    return self.down_proj(self.act_fn(gate) * up)


class _Norm(torch.autograd.Function):
    """y = (plus + w) x / rms(x); see ``native.ops``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, plus: float, late: bool) -> Tensor:
        y, inverse = native.rms_forward(x, weight, eps, plus, late)
        ctx.save_for_backward(x, weight, inverse)
        ctx.plus = plus
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        d_x, d_weight = native.rms_backward(grad, x, weight, inverse, ctx.plus, ctx.needs_input_grad[1])
        return d_x, d_weight, None, None, None


class _Glu(torch.autograd.Function):
    """y = f(gate) up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, kind: str) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.kind = kind
        return native.glu_forward(gate, up, kind)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        return *native.glu_backward(grad, gate, up, ctx.kind), None


def _eps(module: Any) -> float | None:
    found = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return found if isinstance(found, float) else None


def _norm_variant(module: nn.Module) -> tuple[float, bool] | None:
    """Which norm ``module`` computes, or None if it is another kind of layer."""
    weight = module._parameters.get("weight")
    named = type(module).__name__.endswith("RMSNorm") and not list(module.children())
    if not named or weight is None or weight.dim() != 1 or _eps(module) is None or not native.known(weight):
        return None
    x = _sample(3, len(weight), weight.dtype)
    own = _tried(module, x)
    for variant in VARIANTS:
        y, _ = native.rms_forward(x, weight.detach(), _eps(module) or 0.0, *variant)
        if own is not None and _same(own, y):
            return variant
    return None


def _gate_kind(module: nn.Module) -> str | None:
    """Which gate a feed-forward layer has, or None for another kind of layer.

    The products are left to the layers in it, so they need not be tried: identities stand in for them.
    """
    own: Any = module
    if not type(module).__name__.endswith("MLP") or sorted(dict(module.named_children())) != sorted(HALVES):
        return None
    x = _sample(3, 32, torch.float32)
    if not native.known(x):
        return None
    double = _Double(own.act_fn)
    result = _tried(double, x, type(module).forward)
    for kind in native.GATES:
        if result is not None and _same(result, 3 * native.glu_forward(x, 2 * x, kind)):
            return kind
    return None


class _Double(nn.Module):
    """A feed-forward layer whose products are by 1, 2 and 3, to see what it does with them."""

    def __init__(self, act_fn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act_fn = act_fn
        self.config = None

    def gate_proj(self, x: Tensor) -> Tensor:
        return x

    def up_proj(self, x: Tensor) -> Tensor:
        return 2 * x

    def down_proj(self, x: Tensor) -> Tensor:
        return 3 * x


def _sample(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """Numbers of all sizes, without touching the random state."""
    return (
        (torch.arange(1, rows * width + 1, dtype=torch.float32).view(rows, width) * 0.7)
        .sin()
        .mul_(3)
        .to(dtype)
    )


@torch.no_grad()
def _tried(module: nn.Module, x: Tensor, forward: Any = None) -> Tensor | None:
    """What the layer's own forward gives; None if it asks for more than ``x``."""
    try:
        found = (forward or type(module).forward)(module, x)
    except (TypeError, AttributeError):  # it needs other arguments or parts: a layer of another kind
        return None
    return found if isinstance(found, Tensor) else None


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    tolerance = 1e-5 if a.dtype == torch.float32 else 1e-2
    return torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance)
