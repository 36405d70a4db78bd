"""How weights move, from settings to objects: which optimizer, which memory savers, and what does not fit."""

from __future__ import annotations

from tunewright.adapt.base import Adapter, Method
from tunewright.core.config import settings_of
from tunewright.core.errors import ConfigError
from tunewright.engine.bits import IN_BITS, PAGED, check_installed, resolved_name, unpaged
from tunewright.engine.optim import PROJECTED, OptimSettings
from tunewright.engine.projected import Projection
from tunewright.engine.updates import check_unclipped
from tunewright.models.precision import choose
from tunewright.objectives.base import Objective
from tunewright.run.recipe import ProjectionSection, Recipe, value_at
from tunewright.run.resolve import Resolved


def optim_settings(recipe: Recipe) -> OptimSettings:
    """How weights move; ``auto`` must have been pinned."""
    optim, memory = recipe.train.optim, recipe.train.memory
    assert optim.name != "auto", "auto values are pinned before training"
    scale = optim.projection.scale
    return OptimSettings(
        name=optim.name,
        weight_decay=optim.weight_decay,
        betas=(optim.beta1, optim.beta2),
        projection=Projection(
            optim.projection.rank, optim.projection.every, None if scale == "matched" else scale
        ),
        in_backward=memory.update == "in_backward",
        offload=memory.offload == "optimizer",
    )


def pin_optimizer(resolved: Resolved, device: str, quantised: bool) -> Resolved:
    """Work out ``train.optim.name: auto`` for a base on a device of this type."""
    if resolved.recipe.train.optim.name != "auto":
        return resolved
    name = resolved_name("auto", device, quantised)
    why = "a base in few bits on a GPU" if name in PAGED else "the usual one"
    return resolved.pin("train.optim.name", name, why)


def remarks(recipe: Recipe, objective: Objective, device: str) -> list[str]:
    """What the user should know of these settings on a device of this type."""
    name, found = recipe.train.optim.name, []
    if name in PAGED and device != "cuda":
        found.append(f"train.optim.name {name}: pages need a GPU; on the {device} it runs as {unpaged(name)}")
    if recipe.train.memory.update == "in_backward" and (
        objective.rows_per_step or recipe.train.tokens_per_step > recipe.train.at_once
    ):
        found.append(
            "train.memory.update in_backward saves little where a step has several micro-batches: their"
            " gradients are kept until the last; lower train.tokens_per_step to train.micro_tokens, or raise"
            " the latter"
        )
    return found


def check_optim(recipe: Recipe, adapter: Adapter | Method) -> None:
    """Raise ``ConfigError`` for an optimizer or a memory saver that cannot work with the rest."""
    check_installed(recipe.train.optim.name)
    _check_projection(recipe)
    _check_format(recipe)
    _check_in_backward(recipe, adapter)
    _check_sleeping(recipe, adapter)
    _check_activations(recipe)
    _check_offload(recipe)


def _check_projection(recipe: Recipe) -> None:
    optim = recipe.train.optim
    if optim.name not in PROJECTED:
        for name, field in settings_of(ProjectionSection, "train.optim.projection."):
            if value_at(recipe, name) != field.default:
                raise ConfigError(
                    f"{name} has no effect here: train.optim.name is {optim.name}, not galore or apollo;"
                    " remove it"
                )
        return
    rank = getattr(recipe.adapt.options, "rank", None)
    if rank is not None and rank <= optim.projection.rank:
        raise ConfigError(
            f"train.optim.name {optim.name} saves nothing here: the matrices of {recipe.adapt.method} have"
            f" rank {rank}, and train.optim.projection.rank is {optim.projection.rank}; use adamw"
        )


def _check_format(recipe: Recipe) -> None:
    if getattr(recipe.adapt.options, "weights", "float32") != "bfloat16":
        return
    if recipe.train.optim.name in IN_BITS:
        raise ConfigError(
            f"train.optim.name {recipe.train.optim.name} rounds to the nearest, so small updates of weights"
            " in bfloat16 would be lost; use adamw, galore or apollo, or set adapt.weights=float32"
        )
    if recipe.model.dtype == "float32":
        raise ConfigError(
            "adapt.weights bfloat16 is what the model computes in as well; remove model.dtype float32, or set"
            " adapt.weights=float32"
        )


def _check_in_backward(recipe: Recipe, adapter: Adapter | Method) -> None:
    if recipe.train.memory.update != "in_backward":
        return
    check_unclipped(recipe.train.optim.clip_norm)
    if getattr(type(adapter), "updated", None) is not Method.updated:
        raise ConfigError(
            f"adapt.method {recipe.adapt.method!r} looks at the gradients after each update, and"
            " train.memory.update in_backward has freed them by then; set train.memory.update=after"
        )


def _check_sleeping(recipe: Recipe, adapter: Adapter | Method) -> None:
    if recipe.train.optim.name in PAGED and adapter.active(1, 2, 0) is not None:
        raise ConfigError(
            f"train.optim.name {recipe.train.optim.name} never gives pages back, so layers that sleep would"
            f" save nothing; use {unpaged(recipe.train.optim.name)}"
        )


def _check_activations(recipe: Recipe) -> None:
    memory = recipe.train.memory
    for name, idle in (
        ("checkpoint_layers", memory.checkpoint_layers in (0, "auto")),
        ("offload", memory.offload != "activations"),
    ):
        if recipe.adapt.method == "head" and not idle:
            raise ConfigError(
                f"train.memory.{name} has no effect here: with adapt.method 'head' no layer keeps anything"
                " for a backward pass; remove it"
            )


def _check_offload(recipe: Recipe) -> None:
    what = recipe.train.memory.offload
    if what == "none":
        return
    device = choose(recipe.model.device, recipe.model.dtype).device.type
    if device != "cuda":
        raise ConfigError(
            f"train.memory.offload {what} needs a GPU to take the load from, but this run computes on the"
            f" {device}; remove it"
        )
    if what == "optimizer" and recipe.train.optim.name in PAGED:
        raise ConfigError(
            f"train.optim.name {recipe.train.optim.name} moves its state to the CPU by itself; remove"
            f" train.memory.offload, or use {unpaged(recipe.train.optim.name)}"
        )
