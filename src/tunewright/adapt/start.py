"""LoRA that starts from a part of the weights instead of nothing: PiSSA (Meng et al. 2024, arXiv 2404.02948)
and OLoRA (Büyükakyüz 2024, arXiv 2406.01775).

There the base gives up what the update starts with: W - s B0 A0 is frozen and s B A trains, from B0 A0. Here
the base stays as it is and the start is subtracted beside it, W x + s (B A - B0 A0) x, which is the same
function with the same gradients. So the base answers to the last bit when the adapter is switched off, and
what is saved is a plain LoRA of twice the rank, [A; A0] and [B, -B0], for the original base.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraVariant
from safetensors.torch import save_file
from torch import Tensor, nn

from tunewright.core.errors import ConfigError
from tunewright.models.placing import decomposable

NAME = "default"  # of the adapter that trains


def moves_base(init: str) -> bool:
    """Whether an init of PEFT's takes away from the base what the update starts with."""
    return init == "olora" or init.startswith("pissa")


class FromStart(LoraVariant):  # type: ignore[misc]
    """How PEFT's linear layer computes and merges an update that starts elsewhere than at nothing."""

    def supports_lora_conversion(self) -> bool:
        """No: what PEFT would convert is B A alone."""
        return False

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """``result`` + s (B A - B0 A0) x. At the start both products are the same to the last bit."""
        dropped = module.lora_dropout[active_adapter](x)
        moved = module.lora_B[active_adapter](module.lora_A[active_adapter](dropped))
        still = F.linear(F.linear(x, module.start_a), module.start_b)
        return result + (moved - still) * module.scaling[active_adapter]

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """A new weight with the difference."""
        return orig_weight + _difference(module).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """Add the difference in place."""
        orig_weight.data += _difference(module).to(orig_weight.dtype)

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """A new weight without the difference."""
        return orig_weight - _difference(module).to(orig_weight.dtype)


def begin(model: nn.Module, init: str) -> None:
    """Let every LoRA layer of ``model`` start from its weight; a model on ``meta`` gets the same form.

    Raises ``ConfigError`` for a layer whose weight has no such decomposition.
    """
    for _, layer in _lora_layers(model):
        base = layer.get_base_layer()
        if not base.weight.is_floating_point():
            raise ConfigError(f"adapt.init {init!r} needs weights that are not quantised; use default")
        if not base.weight.is_meta:
            with torch.no_grad():
                _olora(layer) if init == "olora" else _pissa(layer, init)
        for part, mark in ((layer.lora_A[NAME], "start_a"), (layer.lora_B[NAME], "start_b")):
            part.weight.data = part.weight.data.float().contiguous()
            layer.register_buffer(mark, part.weight.detach().clone(), persistent=False)
        layer.lora_variant[NAME] = FromStart()


def _pissa(layer: Any, init: str) -> None:
    """The largest singular values and their vectors, as PEFT computes them, which gives the layer another
    weight; its own is put back."""
    base = layer.get_base_layer()
    own = base.weight.data
    layer.pissa_init(NAME, init)
    base.weight.data = own


def _olora(layer: Any) -> None:
    """The first columns of Q and rows of R, W = QR."""
    weight, rank = layer.get_base_layer().weight.float(), layer.r[NAME]
    whole = torch.linalg.qr(decomposable(weight.T if layer.fan_in_fan_out else weight))
    q, r = (part.to(weight.device) for part in whole)
    layer.lora_A[NAME].weight.data, layer.lora_B[NAME].weight.data = r[:rank], q[:, :rank]


def starts(model: nn.Module) -> dict[str, Tensor]:
    """Where each layer started, by name: a resumed run must not depend on finding the same decomposition."""
    layers = [pair for pair in _lora_layers(model) if hasattr(pair[1], "start_a")]
    return {
        f"{n}.{mark}": getattr(layer, mark).cpu() for n, layer in layers for mark in ("start_a", "start_b")
    }


def restore_starts(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The inverse of ``starts``."""
    for key, value in state.items():
        layer, _, mark = key.rpartition(".")
        getattr(model.get_submodule(layer), mark).copy_(value)


def save_plain(model: Any, directory: Path) -> None:
    """Replace what PEFT wrote by a plain LoRA of twice the rank, which fits the original base."""
    found = starts(model)
    tensors = {}
    for key, value in get_peft_model_state_dict(model, save_embedding_layers=False).items():
        layer, _, part = key.removesuffix(".weight").rpartition(".")
        if part == "lora_A":
            value = torch.cat([value, found[f"{layer}.start_a"].to(value)], 0)
        elif part == "lora_B":
            value = torch.cat([value, -found[f"{layer}.start_b"].to(value)], 1)
        tensors[key] = value.detach().cpu().contiguous().clone()  # tied ones would share their memory
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    _twice(model.peft_config[NAME]).save_pretrained(str(directory))


def _twice(config: LoraConfig) -> LoraConfig:
    """The config of twice the ranks with the same scales."""
    times = math.sqrt(2) if config.use_rslora else 2
    wide = copy.deepcopy(config)
    wide.init_lora_weights, wide.inference_mode = True, True
    wide.r, wide.lora_alpha = 2 * config.r, times * config.lora_alpha  # type: ignore[assignment]
    wide.rank_pattern = {name: 2 * rank for name, rank in (config.rank_pattern or {}).items()}
    wide.alpha_pattern = {name: times * alpha for name, alpha in (config.alpha_pattern or {}).items()}
    return wide


def _lora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, m) for name, m in model.named_modules() if isinstance(m, LoraLinear))


def _difference(module: Any) -> Tensor:
    """s (B A - B0 A0) as the weight lies."""
    b, a = module.lora_B[NAME].weight, module.lora_A[NAME].weight
    found: Tensor = (b @ a - module.start_b @ module.start_a) * module.scaling[NAME]
    return found.T if module.fan_in_fan_out else found
