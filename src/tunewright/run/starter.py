"""``tunewright init``: a recipe to start from, commented from the settings' own descriptions."""

from __future__ import annotations

from pathlib import Path

import psutil

from tunewright.core.errors import ConfigError
from tunewright.core.paths import write_text
from tunewright.models.precision import choose
from tunewright.run.recipe import Recipe, settings_in

SHOWN = (
    "model.name",
    "data.train",
    "data.split.validation",
    "data.split.test",
    "data.max_length",
    "adapt.method",
    "adapt.rank",
    "objective.name",
    "train.epochs",
    "train.learning_rate",
    "train.tokens_per_step",
    "train.stop.patience",
    "evaluate.metrics",
    "evaluate.baselines",
    "output.dir",
)


def write(directory: Path) -> Path:
    """Write ``recipe.yaml``; raises ``ConfigError`` if there is one already or it cannot be written."""
    path = directory / "recipe.yaml"
    if path.exists():
        raise ConfigError(f"{path} exists; remove it or choose another directory")
    try:
        write_text(path, text())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another directory") from error
    return path


def text() -> str:
    """The recipe, with what was found out about this machine."""
    precision = choose()
    memory = psutil.virtual_memory().total / 2**30
    values = {"data.train": "tickets.jsonl", "output.dir": "runs/tickets"}
    lines = [
        f"# A Tunewright recipe for this machine: {precision.reason}; {memory:.0f} GB of memory.",
        "# `tunewright plan recipe.yaml` shows every setting; docs/recipe.md describes them all.",
    ]
    fields = dict(settings_in(Recipe.model_validate({"data": {"train": values["data.train"]}})))
    open_sections: list[str] = []
    for name in SHOWN:
        *sections, leaf = name.split(".")
        for depth, section in enumerate(sections):
            if open_sections[: depth + 1] != sections[: depth + 1]:
                lines.append("  " * depth + f"{section}:")
        open_sections = sections
        default = fields[name].get_default(call_default_factory=True)
        shown = values.get(name, str(default).replace("'", ""))
        lines.append("  " * len(sections) + f"{leaf}: {shown}  # {fields[name].description}")
    return "\n".join(lines) + "\n"
