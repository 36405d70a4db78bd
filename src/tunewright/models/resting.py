"""Linear layers of a model whose weights rest for a while, as during generation, without doing work again.

In bfloat16 a CPU turns the weights around for every product. Of few rows that takes as long as the product,
so here it is done once. Layers that read the same states are multiplied together, and the factors of LoRA are
cast once. The numbers are those of the layers' own forward, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from tunewright.core.memory import free_bytes

WORTH = 16  # tokens of the longest answer from which on the copies pay: one costs as much as a few steps
SHARE = 4  # the copies may take up to this part of the memory that is free
ROWS = 32  # for which the weights are laid out; any number may come
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # names of layers that read the same
# Attribute of a function put in a layer's place that computes the same as the layer.
OWN = "product_of_weights"


class Factors(NamedTuple):
    """A linear layer's ``weight`` (out, in) and ``bias``, and s (x Aᵀ) Bᵀ on top with ``a`` (rank, in)."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 1.0


@contextmanager
def resting(model: nn.Module, new_tokens: int) -> Iterator[None]:
    """Multiply from copies of the weights inside, where there are ``new_tokens`` enough and memory for them.

    The weights must not change inside, nor which adapter is active.
    """
    groups = _groups(model) if new_tokens >= WORTH else []
    if _bytes(groups) * SHARE > free_bytes():
        groups = []
    kept = [(layer, layer.__dict__.get("forward")) for group in groups for layer, _ in group]
    try:
        for group in groups:
            _place(group)
        yield
    finally:
        for layer, forward in kept:
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.forward = forward


def bytes_of_copies(model: nn.Module, new_tokens: int) -> int:
    """What ``resting`` takes at most."""
    return _bytes(_groups(model)) if new_tokens >= WORTH else 0


Group = list[tuple[Any, Factors]]  # layers that read the same states


def _bytes(groups: Sequence[Group]) -> int:
    return sum(f.weight.nbytes for group in groups for _, f in group)


def _groups(model: nn.Module) -> list[Group]:
    """All layers that are known, together where they can be."""
    found: list[Group] = []
    seen: set[nn.Module] = set()
    for module in model.modules():  # what holds others comes before them
        children = dict(module.named_children())
        for names in TOGETHER:
            group = [(children[name], _factors(children[name])) for name in names if name in children]
            known = [(layer, factors) for layer, factors in group if factors is not None]
            if len(known) == len(names) and _alike([factors for _, factors in known]):
                found.append(known)
                seen.update(part for layer, _ in known for part in layer.modules())
        if module in seen:
            continue
        if (factors := _factors(module)) is not None:
            found.append([(module, factors)])
        if factors is not None or isinstance(module, BaseTunerLayer):
            seen.update(module.modules())  # what an adapter does with the layers in it is its own affair
    return found


def _alike(group: Sequence[Factors]) -> bool:
    """Whether one product can do for all."""
    kinds = {(f.weight.shape[1], f.bias is None, f.a is None, f.scale) for f in group}
    return len(kinds) == 1


def _factors(layer: Any) -> Factors | None:
    """What ``layer`` multiplies with, or None where that is not all it does."""
    own = layer.__dict__.get("forward")
    if own is not None and not getattr(own, OWN, False):
        return None
    if any(layer.__dict__.get(hooks) for hooks in ("_forward_hooks", "_forward_pre_hooks")):
        return None
    if type(layer) is LoraLinear:
        return _lora_factors(layer)
    if type(layer) is not nn.Linear or not isinstance(layer.weight, nn.Parameter):
        return None
    if type(layer.weight) not in (nn.Parameter, Tensor) and not hasattr(layer.weight, "fake_mode"):
        return None  # quantised or sharded tensors have classes of their own
    plain = layer.weight.dtype == torch.bfloat16 and layer.weight.device.type == "cpu"
    return Factors(layer.weight.detach(), layer.bias) if plain else None


def _lora_factors(layer: Any) -> Factors | None:
    """Of a LoRA layer with one plain adapter, or none, that is active."""
    base = _factors(layer.get_base_layer())
    if base is None or layer.merged:
        return base
    names = [] if layer.disable_adapters else [n for n in layer.active_adapters if n in layer.lora_A]
    if not names:
        return base
    [name] = names if len(names) == 1 else [None]
    if name is None or layer.lora_variant.get(name) is not None or layer.lora_bias.get(name):
        return None
    a, b = layer.lora_A[name], layer.lora_B[name]
    if type(a) is not nn.Linear or type(b) is not nn.Linear:
        return None
    low = [part.weight.detach().to(base.weight.dtype) for part in (a, b)]
    return base._replace(a=low[0], b=low[1], scale=float(layer.scaling[name]))


class _Product:
    """y_i = x W_iᵀ + c_i + s (x A_iᵀ) B_iᵀ of the layers of a group, as one product of (x, s x Aᵀ)."""

    def __init__(self, group: Sequence[Factors]) -> None:
        self.sizes = [len(f.weight) for f in group]
        first, downs = group[0], [f.a for f in group if f.a is not None]
        self.bias = None if first.bias is None else torch.cat([f.bias for f in group if f.bias is not None])
        self.down, self.scale = None, first.scale
        weight = first.weight if len(group) == 1 else torch.cat([f.weight for f in group])
        if downs:
            ups = torch.block_diag(*[f.b for f in group])  # type: ignore[no-untyped-call]
            self.down, weight = _laid_out(torch.cat(downs)), torch.cat([weight, ups], 1)
        self.weight = _laid_out(weight)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Of ``x`` (..., in): (..., out) for each layer."""
        flat = x.reshape(-1, x.shape[-1])
        if self.down is not None:
            inner = _times(flat, self.down)
            flat = torch.cat([flat, inner if self.scale == 1 else inner.mul_(self.scale)], 1)
        y = _times(flat, self.weight, self.bias).view(*x.shape[:-1], -1)
        return [y] if len(self.sizes) == 1 else list(torch.split(y, self.sizes, -1))


def _laid_out(weight: Tensor) -> Tensor:
    """``weight`` (out, in) as the CPU's products want it."""
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return found


def _times(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + c of a weight that is laid out."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def _place(group: Group) -> None:
    """Give the layers of a group forwards that share a product, computed when the first of them is asked."""
    product = _Product([factors for _, factors in group])
    waiting: dict[int, tuple[Tensor, Tensor]] = {}  # states and product of layers that have not asked yet

    def first(x: Tensor) -> Tensor:
        mine, *others = product(x)
        waiting.update({place: (x, found) for place, found in enumerate(others, 1)})
        return mine

    def later(place: int, own: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        read, found = waiting.pop(place, (None, None))
        return own(x) if found is None or read is not x else found

    for place, (layer, _) in enumerate(group):
        layer.forward = partial(later, place, layer.forward) if place else first
