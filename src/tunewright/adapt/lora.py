"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): W x + scale * B A x with W frozen.

PEFT owns the adapter and its file format. Where it is exactly equal (plain LoRA without dropout on a linear
layer) the layer's forward is replaced by one autograd step that saves only ``x`` and ``x Aᵀ``.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from tunewright.core.errors import ConfigError
from tunewright.core.names import nearest
from tunewright.models.quiet import quiet_peft


class Lora:
    """LoRA on all linear layers (or on ``targets``), saved as a PEFT adapter."""

    provides: frozenset[str] = frozenset({"reference"})

    def __init__(
        self,
        *,
        rank: int = 16,
        alpha: int | None = None,
        dropout: float = 0.0,
        targets: list[str] | str = "all-linear",
        fused: bool = True,
    ) -> None:
        self.rank, self.dropout, self.targets, self.fused = rank, dropout, targets, fused
        self.alpha = 2 * rank if alpha is None else alpha
        self.label = f"LoRA rank {rank}"

    def attach(self, model: Any) -> nn.Module:
        """Wrap ``model``; raises ``ConfigError`` if a target names no layer or the rank exceeds a layer."""
        self._check_targets(model)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,
            task_type="CAUSAL_LM",
        )
        with quiet_peft():
            wrapped = get_peft_model(model, config)
        if self.fused:
            fuse(wrapped)
        return wrapped

    @contextmanager
    def disabled(self, model: Any) -> Iterator[None]:
        """The base answers, bit for bit."""
        with model.disable_adapter():
            yield

    def merged(self, model: Any) -> nn.Module:
        """W + scale * B A in every adapted layer; the adapter is gone afterwards."""
        return model.merge_and_unload()

    def save(self, model: Any, directory: Path) -> None:
        """``adapter_config.json`` and ``adapter_model.safetensors``, as PEFT writes them."""
        with quiet_peft():
            model.save_pretrained(directory)

    def _check_targets(self, model: Any) -> None:
        linears = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
        leaves = {name.rsplit(".", 1)[-1] for name in linears}
        if isinstance(self.targets, str):
            if self.targets != "all-linear":
                raise ConfigError(
                    f"adapt.targets {self.targets!r}: give a list of layer names or 'all-linear'"
                )
            wanted = linears
        else:
            for target in self.targets:
                if not any(name == target or name.endswith("." + target) for name in linears):
                    raise ConfigError(f"adapt.targets: no linear layer {target!r}. {nearest(target, leaves)}")
            wanted = {
                n: m for n, m in linears.items() if any(n == t or n.endswith("." + t) for t in self.targets)
            }
        head = model.get_output_embeddings()
        for name, layer in wanted.items():
            if layer is not head and self.rank > min(layer.weight.shape):
                raise ConfigError(
                    f"adapt.rank {self.rank} exceeds layer {name} of shape {tuple(layer.weight.shape)};"
                    f" use at most {min(layer.weight.shape)}"
                )


def fuse(model: nn.Module) -> int:
    """Replace the forward of every plain LoRA linear layer by the fused one; returns how many were."""
    count = 0
    for module in model.modules():
        if type(module) is LoraLinear and _is_plain(module):
            module.forward = types.MethodType(_fused_forward, module)  # type: ignore[method-assign]
            count += 1
    return count


def _is_plain(layer: LoraLinear) -> bool:
    names = list(layer.lora_A)
    return (
        len(names) == 1
        and isinstance(layer.lora_dropout[names[0]], nn.Identity)
        and not layer.use_dora.get(names[0], False)
        and not layer.lora_bias.get(names[0], False)
        and type(layer.get_base_layer()) is nn.Linear
    )


def _fused_forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    active = self.active_adapters
    plain = len(active) == 1 and active[0] in self.lora_A and not self.merged and not self.disable_adapters
    if not plain or args or kwargs or not _is_plain(self):
        return LoraLinear.forward(self, x, *args, **kwargs)
    name, base = active[0], self.get_base_layer()
    a, b = self.lora_A[name].weight, self.lora_B[name].weight
    return _LoraLinear.apply(x, base.weight, base.bias, a, b, self.scaling[name])


class _LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + c + s (x Aᵀ) Bᵀ with W (out, in) frozen, A (rank, in), B (out, rank).

    With g = dL/dy:  dB = s gᵀ(x Aᵀ),  dA = s (g B)ᵀ x,  dx = g W + s (g B) A.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low_a, low_b = a.to(x.dtype), b.to(x.dtype)
        inner = flat @ low_a.T
        y = flat @ w.T if bias is None else torch.addmm(bias, flat, w.T)
        y.addmm_(inner, low_b.T, alpha=scale)
        ctx.save_for_backward(flat, inner, w, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], w.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, inner, w, a, b = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1])
        gb = g @ b.to(g.dtype)
        d_b = (g.T @ inner).to(b.dtype).mul_(ctx.scale)
        d_a = (gb.T @ flat).to(a.dtype).mul_(ctx.scale)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = (g @ w).addmm_(gb, a.to(g.dtype), alpha=ctx.scale).view(ctx.shape)
        return d_x, None, None, d_a, d_b, None
