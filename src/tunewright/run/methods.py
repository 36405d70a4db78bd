"""One way to begin a recipe and one to go on with it, whether it is a single run or a preset of several."""

from __future__ import annotations

from pathlib import Path

from tunewright.core import events
from tunewright.core.events import Observer
from tunewright.run import rlhf
from tunewright.run import train as single
from tunewright.run.recipe import Recipe
from tunewright.run.resolve import Resolved
from tunewright.run.session import Run

PRESETS = {"rlhf": rlhf.run_rlhf}


def first_run(recipe: Resolved) -> tuple[Resolved, str | None]:
    """The run that begins first, which can be planned, and a remark on those that follow."""
    if recipe.recipe.objective.name not in PRESETS:
        return recipe, None
    settled, run = single.settled(recipe)
    name, *later = (runs := rlhf.phases(settled.recipe, run.root))
    return runs[name], f"this is the plan of phase {name}; {' and '.join(later)} follow, from what it makes"


def train(recipe: Recipe | Resolved, observe: Observer = events.silent) -> Run:
    """Do the whole recipe; raises ``RunError`` if its directory already holds something."""
    name = (recipe.recipe if isinstance(recipe, Resolved) else recipe).objective.name
    return PRESETS.get(name, single.train)(recipe, observe)


def resume(directory: str | Path, observe: Observer = events.silent) -> Run:
    """Go on with an interrupted run; a finished one is returned as it is."""
    folder = Path(directory)
    if (folder / single.PHASES / "recipe.yaml").exists():
        return rlhf.resume_rlhf(folder, observe)
    return single.resume(folder, observe)
