"""How a model is judged: what was asked for, and what that comes to for the model in hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from tunewright.core.errors import ConfigError
from tunewright.core.paths import RunDir
from tunewright.models.generate import AtOnce
from tunewright.run.compose import make_adapter, objective_of
from tunewright.run.recipe import Recipe
from tunewright.run.resolve import Resolved, read_recipe


@dataclass(frozen=True)
class Judging:
    """How to ask and how to score, as far as it is asked for.

    What is ``None`` is taken from the recipe of the run that is judged, so that its numbers come out again;
    for any other model the defaults of ``Settled`` hold.
    """

    metrics: Sequence[str] | None = None
    columns: dict[str, str] | None = None
    rows: int | None = None
    shots: int | None = None
    shots_from: str | None = None
    max_new_tokens: int | None = None
    piece: int | None = None
    batch_size: AtOnce | None = None
    micro_tokens: int | None = None
    level: float | None = None
    device: str | None = None
    dtype: str | None = None
    weights: torch.dtype | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Settled:
    """``Judging`` with nothing left open but what depends on the questions.

    ``metrics``: empty for those that fit the answers. ``rows``: how many to draw, ``None`` for all.
    ``max_new_tokens``: ``None`` for auto.
    ``weights``: the format weights are kept in, if not that of computing.
    ``rewarded``: the recipe whose rewards score the answers, for a run that learnt from rewards.
    """

    metrics: Sequence[str] = ()
    columns: dict[str, str] | None = None
    rows: int | None = None
    shots: int = 0
    shots_from: str | None = None
    max_new_tokens: int | None = None
    piece: int = 2048
    batch_size: AtOnce = "auto"
    micro_tokens: int = 2048
    level: float = 0.95
    device: str = "auto"
    dtype: str = "auto"
    weights: torch.dtype | None = None
    seed: int = 0
    rewarded: Recipe | None = None


def settled(how: Judging, name: str, data: str | Path) -> Settled:
    """``how`` with what it leaves open taken from the run called ``name``, if it is one."""
    run = RunDir(Path(name))
    found = _settings_of(read_recipe(run), data) if run.recipe.exists() else {}
    asked = {f.name: value for f in fields(how) if (value := getattr(how, f.name)) is not None}
    return Settled(**(found | asked))


def settled_for_all(how: Judging, names: Sequence[str], data: str | Path) -> Settled:
    """``how`` for models that are compared: the candidate's, which is the last, or that of rewards.

    Where a model has learnt from rewards, all are scored by them: the first such run says how. Raises
    ``ConfigError`` where two runs have different rewards.
    """
    every = {name: settled(how, name, data) for name in names}
    learnt = {name: found.rewarded for name, found in every.items() if found.rewarded is not None}
    if not learnt:
        return every[names[-1]]
    first = next(iter(learnt))
    for name, recipe in learnt.items():
        if _scoring(recipe) != _scoring(learnt[first]):
            raise ConfigError(
                f"{first} and {name} learnt from different rewards (objective.rewards and"
                " objective.rollout.environment), so no score is common to both; compare each with the model"
                " it was trained from"
            )
    return every[names[-1] if names[-1] in learnt else first]


def _scoring(recipe: Recipe) -> tuple[Any, Any]:
    """What decides on the score of an answer."""
    options = recipe.objective.options
    return options.rewards, options.rollout.environment


def _settings_of(resolved: Resolved, data: str | Path) -> dict[str, Any]:
    """What a run's recipe says about judging."""
    recipe, section = resolved.recipe, resolved.recipe.evaluate
    prepared = (Path(data).parent / "receipt.json").exists()  # rows whose columns were mapped before
    found = resolved.sources["model.device"].startswith("auto")  # may be missing on this machine
    return {
        "metrics": () if section.metrics == "auto" else tuple(section.metrics),
        "columns": None if prepared else _columns(recipe),
        "max_new_tokens": None if section.max_new_tokens == "auto" else section.max_new_tokens,
        "piece": recipe.data.max_length,
        "batch_size": section.batch_size,
        "micro_tokens": recipe.train.read_at_once,
        "level": section.level,
        "device": "auto" if found else recipe.model.device,
        "dtype": recipe.model.dtype,
        "weights": make_adapter(recipe).reloads,
        "seed": recipe.train.seed,
        "rewarded": recipe if objective_of(recipe).judged == "rewards" else None,
    }


def _columns(recipe: Recipe) -> dict[str, str] | None:
    """Where to find what in every file; ``None`` where each task has columns of its own."""
    given = recipe.data.columns or {}
    return {name: value for name, value in given.items() if isinstance(value, str)} or None
