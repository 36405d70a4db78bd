"""Saved LoRA adapters as what they are: per layer a difference of weights, a product of two thin matrices.

Only PEFT's plain format is read: LoRA or rsLoRA, nothing trained beside it.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunewright.core.errors import ModelError
from tunewright.core.paths import RunDir, write_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<part>[AB])\.weight$")
# Settings that make the difference something other than scale * B A in some layers.
PLAIN: Mapping[str, Any] = {
    "use_dora": False,
    "bias": "none",
    "lora_bias": False,
    "modules_to_save": None,
    "trainable_token_indices": None,
    "layer_replication": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
}


@dataclass(frozen=True)
class LowRank:
    """``scale * b @ a``: ``a`` (rank, inputs), ``b`` (outputs, rank)."""

    a: Tensor
    b: Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Number of columns of ``b``."""
        return self.a.shape[0]

    def dense(self) -> Tensor:
        """The difference itself, (outputs, inputs) float32."""
        return self.scale * (self.b.float() @ self.a.float())


@dataclass(frozen=True)
class SavedLora:
    """An adapter on disk: its low-rank differences by layer, its config, and the record of its base."""

    path: Path
    config: Mapping[str, Any]
    base: Mapping[str, Any]
    layers: Mapping[str, LowRank]


def read_lora(name: str | Path) -> SavedLora:
    """Read the adapter directory, or that of a run. Raises ``ModelError`` for any other kind of adapter."""
    path = Path(name)
    if (RunDir(path).adapter / CONFIG).exists():
        path = RunDir(path).adapter
    if not (path / CONFIG).exists():
        raise ModelError(f"{name} holds no adapter ({CONFIG} is missing); give an adapter or a run with one")
    config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{name} is of the kind {config.get('peft_type')}, not a LoRA that can be added up")
    for setting, plain in PLAIN.items():
        if config.get(setting, plain) not in (plain, None, {}, []):
            raise ModelError(
                f"{name} has {setting}={config[setting]!r}, so its difference is not low rank alone; merge it"
                " and take the merged model"
            )
    record = path / "base.json"
    base = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    return SavedLora(path, config, base, _layers(path, config))


def write_lora(directory: Path, like: SavedLora, layers: Mapping[str, LowRank]) -> None:
    """Write ``layers`` as a PEFT adapter of the base of ``like``, with the files beside that one."""
    directory.mkdir(parents=True)
    for file in like.path.iterdir():
        if file.is_file() and file.name not in {CONFIG, WEIGHTS, "README.md"}:
            shutil.copy2(file, directory)
    write_adapter(directory, like.config, layers)


def write_adapter(
    directory: Path,
    config: Mapping[str, Any],
    layers: Mapping[str, LowRank],
    whole: Mapping[str, Tensor] | None = None,
) -> None:
    """The two files of PEFT; every layer states its own rank, and its scale goes into ``b``.

    ``whole`` are weights that replace the base's, by name.
    """
    usual = max(layer.rank for layer in layers.values())
    ranks = {rf"^{re.escape(name)}$": v.rank for name, v in layers.items() if v.rank != usual}
    tensors = {}
    for name, layer in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.a.float().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = (layer.scale * layer.b.float()).contiguous()
    tensors |= {f"base_model.model.{name}": v.clone().contiguous() for name, v in (whole or {}).items()}
    settings = {
        **config,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "target_modules": sorted(layers),
    }
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    write_json(directory / CONFIG, settings)


def factored(difference: Tensor, rank: int) -> tuple[LowRank, float]:
    """The nearest ``LowRank`` of at most ``rank``, and the share of the squared norm that it keeps.

    Truncated singular values (Eckart & Young 1936), split evenly between the two factors.
    """
    u, s, v = torch.linalg.svd(difference.float(), full_matrices=False)
    kept = min(rank, int((s > s[0] * 1e-5).sum()) or 1)
    root = s[:kept].sqrt()
    whole = float(s.square().sum())
    share = float(s[:kept].square().sum()) / whole if whole > 0 else 1.0
    return LowRank((root[:, None] * v[:kept]), u[:, :kept] * root), share


def stacked(parts: list[LowRank], weights: list[float]) -> LowRank:
    """The exact weighted sum of several: the ranks add up."""
    scaled = [replace(p, scale=1.0, b=w * p.scale * p.b.float()) for p, w in zip(parts, weights, strict=True)]
    return LowRank(torch.cat([p.a.float() for p in scaled]), torch.cat([p.b for p in scaled], 1))


def _layers(path: Path, config: Mapping[str, Any]) -> dict[str, LowRank]:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(path / WEIGHTS).items():
        match = KEY.match(key)
        if match is None:
            raise ModelError(f"{path / WEIGHTS}: {key} is no part of a plain LoRA of linear layers")
        parts.setdefault(match["layer"], {})[match["part"]] = tensor
    return {name: LowRank(p["A"], p["B"], _scale(config, name, p["A"])) for name, p in parts.items()}


def _scale(config: Mapping[str, Any], layer: str, a: Tensor) -> float:
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            alpha = value
            break
    return float(alpha / (math.sqrt(a.shape[0]) if config.get("use_rslora") else a.shape[0]))
