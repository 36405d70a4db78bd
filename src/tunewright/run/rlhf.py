"""RLHF as one recipe: supervised tuning, a reward model from comparisons, then policy optimisation.

Every phase is an ordinary run. The last one owns the run directory, the earlier ones stand in ``phases/``;
so everything that works on a run works on the result, and a crash in any phase is resumed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunewright.core.errors import ConfigError, RunError
from tunewright.core.events import Observer, Stage
from tunewright.core.paths import RunDir
from tunewright.run.compose import check_early, make_adapter
from tunewright.run.recipe import Recipe
from tunewright.run.resolve import Resolved, read_recipe, resolve, write_recipe
from tunewright.run.session import Run
from tunewright.run.train import PHASES, resume, settled, train

FILES = {"sft": "demonstrations", "reward": "comparisons", "policy": "prompts"}
JUDGED_APART = ("metrics", "baselines", "max_new_tokens")  # of evaluate: each phase measures something else


def run_rlhf(given: Recipe | Resolved, observe: Observer) -> Run:
    """Do all phases, or those that are left; raises ``ConfigError`` before the first if one cannot work."""
    resolved, run = settled(given)
    recipes = phases(resolved.recipe, run.root)
    begun = RunDir(run.root / PHASES)
    if not begun.recipe.exists():
        _check_phases(recipes)
        write_recipe(begun, resolved)
    elif read_recipe(begun).recipe != resolved.recipe:
        raise RunError(
            f"{run.root} was begun with another recipe; go on with `tunewright resume {run.root}`, or choose"
            " another directory with --out or output.dir"
        )
    for number, (name, recipe) in enumerate(recipes.items(), start=1):
        observe(Stage(f"phase {number} of {len(recipes)}", name))
        last = _begun_or_finished(recipe, observe)
    return last


def resume_rlhf(directory: Path, observe: Observer) -> Run:
    """Go on with the phase that was interrupted."""
    return run_rlhf(read_recipe(RunDir(directory / PHASES)), observe)


def phases(recipe: Recipe, root: Path) -> dict[str, Resolved]:
    """The recipe of each phase, by name, in order; the later ones name the results of the earlier."""
    files = recipe.data.train
    if not isinstance(files, dict) or files.keys() != set(FILES.values()):
        raise ConfigError(
            "objective rlhf needs data.train: {demonstrations: FILE, comparisons: FILE, prompts: FILE}"
        )
    if recipe.data.mix:
        raise ConfigError(
            "data.mix: the phases of objective rlhf learn from rows of different kinds; give it to one of"
            " them, as in objective.sft={data.mix: {FILE: 0.2}}"
        )
    folders = {name: root / PHASES / name for name in ("sft", "reward")} | {"policy": root}
    tuned = str(folders["sft"] / "model")
    own = {
        "sft": {"objective": {"name": "sft"}, **_whole_model(recipe)},
        "reward": {"objective": {"name": "reward"}, "model.name": tuned},
        "policy": {
            "objective": {"name": "ppo", "rewards": [{"name": "model", "path": str(folders["reward"])}]},
            "model.name": tuned,
        },
    }
    options = recipe.objective.options
    return {
        name: resolve(
            None,
            _shared(recipe),
            {
                **own[name],
                "data.train": files[FILES[name]],
                "output.dir": str(folders[name]),
                **getattr(options, name),
            },
        )
        for name in FILES
    }


def _shared(recipe: Recipe) -> dict[str, Any]:
    """What all phases have in common; what measures a result is left to each."""
    values = recipe.model_dump(exclude_unset=True)
    values.pop("objective", None)
    values["evaluate"] = {k: v for k, v in values.get("evaluate", {}).items() if k not in JUDGED_APART}
    return values


def _whole_model(recipe: Recipe) -> dict[str, Any]:
    """The later phases start from a whole model, so an adapter is merged; ``ConfigError`` if it cannot be."""
    adapter = make_adapter(recipe)
    if not adapter.merges:
        raise ConfigError(
            f"adapt.method {recipe.adapt.method!r} cannot be merged, and objective rlhf starts each phase"
            " from the whole model that the first one made; use lora, full or freeze"
        )
    return {} if adapter.whole else {"output.final": "merged"}


def _check_phases(recipes: dict[str, Resolved]) -> None:
    """Raise ``ConfigError`` for what a phase would refuse, so that no phase is done in vain."""
    changes = {name: make_adapter(resolved.recipe).changes for name, resolved in recipes.items()}
    first = changes["sft"]
    for name, resolved in recipes.items():
        check_early(resolved.recipe)
        if name == "sft":
            continue
        again = [t for t in changes[name].new_tokens if t in first.new_tokens]
        for setting, twice, off in (
            ("adapt.new_tokens", bool(again), "adapt.new_tokens: []"),
            ("adapt.factor", bool(first.rope and changes[name].rope), "adapt.factor: 1"),
        ):
            if twice:
                raise ConfigError(
                    f"{setting}: phase {name} starts from the merged result of phase sft, where this has been"
                    f" done already; set objective.{name}={{{off}}}"
                )


def _begun_or_finished(recipe: Resolved, observe: Observer) -> Run:
    directory = Path(str(recipe.recipe.output.dir))
    begun = RunDir(directory).recipe.exists()
    return resume(directory, observe) if begun else train(recipe, observe)
