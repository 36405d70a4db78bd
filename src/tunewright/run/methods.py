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
