"""Adapters made from adapters, or from two whole models: weighted sums, TIES, DARE, and differences."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft.utils import merge_utils
from torch import Tensor

from tunewright.adapt.lowrank import (
    LowRank,
    SavedLora,
    factored,
    read_lora,
    stacked,
    write_adapter,
    write_lora,
)
from tunewright.adapt.targets import linear_layers
from tunewright.core.errors import ConfigError, ModelError
from tunewright.core.hashing import seed_from

How = Literal["linear", "ties", "dare", "dare_ties"]
Merge = Callable[[list[Tensor], Tensor, float], Tensor]

# TIES: Yadav et al. 2023, arXiv 2306.01708; DARE: Yu et al. 2023, arXiv 2311.03099.
MERGES: Mapping[str, Merge] = {
    "linear": lambda tensors, weights, density: merge_utils.task_arithmetic(tensors, weights),
    "ties": merge_utils.ties,
    "dare": merge_utils.dare_linear,
    "dare_ties": merge_utils.dare_ties,
}


@dataclass(frozen=True)
class Made:
    """An adapter that was written; ``kept`` is the smallest share of a layer's squared norm in its rank."""

    path: Path
    layers: int
    rank: int
    kept: float


def combine(
    adapters: Sequence[str | Path],
    weights: Sequence[float],
    out: str | Path,
    *,
    how: str = "linear",
    density: float = 0.5,
    rank: int | None = None,
    seed: int = 0,
) -> Made:
    """Write one LoRA adapter that does what several do together.

    ``linear`` is the sum of weight times difference: exact by stacking if no ``rank`` is given. The others
    work on the differences themselves, of which each keeps the share ``density``, and then factor the result
    to ``rank``, by default the sum of all ranks. Raises ``ConfigError`` or ``ModelError``, writing nothing.
    """
    target = _free(out)
    if len(adapters) < 2 or len(weights) != len(adapters):
        raise ConfigError(f"{len(adapters)} adapters and {len(weights)} weights; give two or more of each")
    if how not in MERGES:
        raise ConfigError(f"how {how!r} is not one of {', '.join(MERGES)}")
    if not 0 < density <= 1:
        raise ConfigError(f"density {density} is not above 0 and at most 1")
    saved = [read_lora(name) for name in adapters]
    _same_base(saved)
    made, kept = {}, 1.0
    for name in sorted({name for one in saved for name in one.layers}):
        parts = [(one.layers[name], w) for one, w in zip(saved, weights, strict=True) if name in one.layers]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_from(seed, name))
            made[name], share = _together(parts, how, density, rank)
        kept = min(kept, share)
    write_lora(target, saved[0], made)
    return Made(target, len(made), max(layer.rank for layer in made.values()), kept)


def _together(
    parts: list[tuple[LowRank, float]], how: str, density: float, rank: int | None
) -> tuple[LowRank, float]:
    layers, weights = [layer for layer, _ in parts], [weight for _, weight in parts]
    if how == "linear" and rank is None:
        return stacked(layers, weights), 1.0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The density 1")  # to keep everything is a choice
        merged = MERGES[how]([layer.dense() for layer in layers], torch.tensor(weights), density)
    return factored(merged, rank or sum(layer.rank for layer in layers))


def extract(
    tuned: Any,
    base: Any,
    out: str | Path,
    *,
    rank: int,
    names: tuple[str, str],
    rest: str = "refuse",
) -> Made:
    """Write the difference of two models of one form as a LoRA adapter of rank ``rank`` on the second.

    ``names`` are what the two are called, for messages and the adapter's config. Where they differ elsewhere
    than in linear layers, ``rest`` decides: ``refuse`` raises ``ModelError``, ``keep`` saves those modules
    whole beside the low-rank part, ``drop`` leaves the base's.
    """
    if rest not in ("refuse", "keep", "drop"):
        raise ConfigError(f"rest {rest!r} is not one of refuse, keep, drop")
    target = _free(out)
    _same_form(tuned, base, names)
    layers: dict[str, Any] = {**linear_layers(base)}
    others: dict[str, Any] = {**linear_layers(tuned)}
    whole = _other_differences(tuned, base, {f"{name}.weight" for name in layers})
    if whole and rest == "refuse":
        raise ModelError(
            f"{names[0]} differs from {names[1]} in {', '.join(sorted(whole)[:3])} ({len(whole)} weights in"
            " all), which low-rank updates of linear layers cannot hold; take rest=keep to save them whole,"
            " or rest=drop to leave them out"
        )
    whole = whole if rest == "keep" else {}
    made, kept = {}, 1.0
    for name, layer in layers.items():
        difference = others[name].weight.detach().float() - layer.weight.detach().float()
        if type(layer).__name__ == "Conv1D":
            difference = difference.T
        if not difference.any():
            continue
        made[name], share = factored(difference, rank)
        kept = min(kept, share)
    if not made:
        raise ModelError(f"{names[0]} and {names[1]} are equal; there is no difference to extract")
    target.mkdir(parents=True)
    turned = any(type(layer).__name__ == "Conv1D" for layer in layers.values())
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": names[1],
        "fan_in_fan_out": turned,
        "bias": "none",
        "inference_mode": True,
        "ensure_weight_tying": bool(whole) and _tied(base),
        "modules_to_save": _modules(base, whole) or None,
    }
    write_adapter(target, config, made, whole)
    return Made(target, len(made), max(layer.rank for layer in made.values()), kept)


def _free(out: str | Path) -> Path:
    target = Path(out)
    if target.exists():
        raise ConfigError(f"{target} exists; choose another directory")
    return target


def _same_base(saved: Sequence[SavedLora]) -> None:
    first = saved[0]
    for other in saved[1:]:
        mine, theirs = (dict(one.base) or one.config.get("base_model_name_or_path") for one in (first, other))
        if mine != theirs:
            raise ModelError(
                f"{first.path} and {other.path} were trained on different bases: {mine} and {theirs};"
                " only adapters of one base can be added up"
            )
        for name in first.layers.keys() & other.layers.keys():
            if first.layers[name].dense().shape != other.layers[name].dense().shape:
                raise ModelError(f"{first.path} and {other.path} differ in the shape of {name}")


def _same_form(tuned: Any, base: Any, names: tuple[str, str]) -> None:
    mine = {name: tuple(p.shape) for name, p in tuned.state_dict().items()}
    theirs = {name: tuple(p.shape) for name, p in base.state_dict().items()}
    odd = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    if odd:
        raise ModelError(f"{names[0]} and {names[1]} are not of one form: see {', '.join(odd[:3])}")


def _other_differences(tuned: Any, base: Any, linear: set[str]) -> dict[str, Tensor]:
    """Name -> tuned weight of everything else that differs."""
    theirs = base.state_dict()
    return {n: v for n, v in tuned.state_dict().items() if n not in linear and not torch.equal(v, theirs[n])}


def _tied(model: Any) -> bool:
    """Whether the output layer is the embedding."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _modules(base: Any, whole: Mapping[str, Tensor]) -> list[str]:
    """The modules of these weights; a tied output layer follows the embedding and is not named."""
    names = {name.rpartition(".")[0] for name in whole}
    return sorted(
        n for n in names if not (_tied(base) and base.get_submodule(n) is base.get_output_embeddings())
    )
