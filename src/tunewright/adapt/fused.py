"""PEFT's LoRA layers with a forward and backward in one step that saves only ``x`` and ``x Aᵀ``.

PEFT computes the low-rank part apart in float32 and keeps a float32 copy of ``x`` for every layer. The step
of ``fused_product.py`` takes its place where both are the same function: plain LoRA (rsLoRA and LoRA+ are
that too), DoRA (``fused_dora.py``) and starts elsewhere than at nothing (``fused_start.py``), without dropout
on a frozen linear layer, a Conv1D or a quantised layer. All else goes through PEFT's own forward. Which of
the two is decided in each call: adapters are added, switched and merged at any time.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import torch
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn

from tunewright.adapt.fused_dora import dora_product
from tunewright.adapt.fused_product import Frozen, LoraProduct, frozen, untouched
from tunewright.adapt.fused_start import StartProduct
from tunewright.adapt.start import FromStart
from tunewright.models.resting import OWN

FEW_BITS = ("Linear4bit", "Linear8bitLt")


def fuse(model: nn.Module) -> int:
    """Replace the forward of every layer it knows by the fused one; returns how many were."""
    count = 0
    for module in model.modules():
        if type(module) in _kinds() and _has_own_forward(module) and _known_adapter(module) is not None:
            module.forward = types.MethodType(_forward, module)
            count += 1
    return count


def unfuse(model: nn.Module) -> None:
    """Give every layer PEFT's own forward back, to compare with."""
    for module in model.modules():
        if type(module) in _kinds() and _has_own_forward(module):
            module.__dict__.pop("forward", None)


def _kinds() -> tuple[type, ...]:
    """PEFT's classes whose forward is known; those over bitsandbytes exist only once PEFT has needed them."""
    over = sys.modules.get("peft.tuners.lora.bnb")
    return (LoraLinear, *(getattr(over, name) for name in FEW_BITS if hasattr(over, name)))


def _has_own_forward(module: nn.Module) -> bool:
    """Whether ``forward`` is that of the class or ours; offloading, for one, puts another in its place."""
    forward = module.__dict__.get("forward")
    return forward is None or getattr(forward, "__func__", None) is _forward


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    name = None if args or kwargs else _known_adapter(self)  # arguments mix adapters or switch aLoRA on
    base = None if name is None else frozen(self.get_base_layer(), x)
    if name is None or base is None or not _wide_enough(self.lora_A[name].weight.dtype, base.dtype):
        plain: Tensor = type(self).forward(self, x, *args, **kwargs)
        return plain
    a, b, x = self.lora_A[name].weight, self.lora_B[name].weight, x.to(base.dtype)
    y: Tensor = _product(self, name, x, a, b, base)
    return y.to(base.gives)


setattr(_forward, OWN, True)


def _product(layer: Any, name: str, x: Tensor, a: Tensor, b: Tensor, base: Frozen) -> Any:
    """By the kind of the adapter."""
    variant, scale = layer.lora_variant.get(name), layer.scaling[name]
    if isinstance(variant, DoraLinearVariant):
        return dora_product(x, a, b, layer.lora_magnitude_vector[name].weight, base, scale)
    if isinstance(variant, FromStart):
        return StartProduct.apply(x, a, b, layer.start_a, layer.start_b, base, scale)
    return LoraProduct.apply(x, a, b, base, scale)


def _known_adapter(layer: Any) -> str | None:
    """The active adapter if it is the only one and adds ``s (x Aᵀ) Bᵀ``, scaled by DoRA or not, or None."""
    if layer.disable_adapters or layer.merged or not layer.cast_input_dtype_enabled:
        return None
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(names) != 1 or not _is_known_variant(layer, names[0]):
        return None
    a, b, dropout = (part[names[0]] for part in (layer.lora_A, layer.lora_B, layer.lora_dropout))
    plain = _is_factor(a) and _is_factor(b) and type(dropout) is nn.Identity
    return names[0] if plain else None


def _is_known_variant(layer: Any, name: str) -> bool:
    """Whether the adapter is plain LoRA or DoRA, or starts elsewhere; aLoRA and others do more."""
    variant = layer.lora_variant.get(name)
    if variant is None or type(variant) is FromStart:
        return True
    scaled = layer.lora_magnitude_vector[name] if type(variant) is DoraLinearVariant else None
    return type(scaled) is DoraLinearLayer and untouched(scaled)


def _is_factor(layer: nn.Module) -> bool:
    """A linear layer without bias, its weight an ordinary tensor."""
    return (
        type(layer) is nn.Linear and layer.bias is None and type(layer.weight) is nn.Parameter
    ) and untouched(layer)


def _wide_enough(adapter: torch.dtype, product: torch.dtype) -> bool:
    """PEFT computes in the adapter's format; a narrower one than that of the product gives other numbers."""
    return torch.promote_types(adapter, product) == adapter
