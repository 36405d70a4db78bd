"""A recipe and where each value came from: default, recipe, command line, or worked out (``auto``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tunewright.core.config import build
from tunewright.core.paths import RunDir, write_text
from tunewright.run.recipe import Recipe, merged_values, settings_in, value_at
from tunewright.run.yaml_text import read_yaml

MARK = "  # "  # between a value and its source in recipe.yaml
PATHS = frozenset({"data.train", "data.validation", "data.test", "data.mix"})


@dataclass(frozen=True)
class Resolved:
    """``sources`` maps dotted names to ``default``, ``recipe``, ``command line`` or ``auto: reason``."""

    recipe: Recipe
    sources: Mapping[str, str]

    def pin(self, name: str, value: Any, why: str) -> Resolved:
        """Replace an ``auto`` by the value that was worked out; ``why`` is kept as its source."""
        values = merged_values(self.recipe.model_dump(), {name: value})
        return replace(self, recipe=build(Recipe, values), sources={**self.sources, name: f"auto: {why}"})

    def settings(self) -> list[dict[str, Any]]:
        """Every setting with value, source and description, in the order of the recipe."""
        return [
            {
                "name": name,
                "value": value_at(self.recipe, name),
                "source": self.sources[name],
                "help": field.description,
            }
            for name, field in settings_in(self.recipe)
        ]


def resolve(path: Path | None, values: dict[str, Any] | None, overrides: dict[str, Any]) -> Resolved:
    """Read and validate; exactly one of ``path`` and ``values`` may be given, or neither."""
    written = read_yaml(path) if path else values or {}
    recipe = build(Recipe, merged_values(written, overrides), where=str(path) if path else "recipe")
    from_file, from_line = merged_values(written, {}), merged_values({}, overrides)
    sources = {}
    for name, _ in settings_in(recipe):
        if _given(from_line, name):
            sources[name] = "command line"
        else:
            sources[name] = "recipe" if _given(from_file, name) else "default"
    return Resolved(recipe, sources)


def write_recipe(run: RunDir, resolved: Resolved) -> None:
    """``recipe.yaml``: valid YAML that can be run again, each value with its source as a comment.

    Paths stay as they were given, relative to the directory the command runs in.
    """
    lines = ["# The recipe as it was resolved; every value with its source."]
    seen: list[str] = []
    for setting in resolved.settings():
        *sections, leaf = setting["name"].split(".")
        for depth, section in enumerate(sections):
            if seen[: depth + 1] != sections[: depth + 1]:
                lines.append("  " * depth + f"{section}:")
                seen = sections[: depth + 1]
        seen = sections
        value = yaml.safe_dump(
            setting["value"], default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False
        )
        value = value.removesuffix("\n").removesuffix("\n...")
        lines.append("  " * len(sections) + f"{leaf}: {value}{MARK}{_source(setting)}")
    write_text(run.recipe, "\n".join(lines) + "\n")


def read_recipe(run: RunDir) -> Resolved:
    """What ``write_recipe`` wrote, with the sources it noted (if nobody edited the lines)."""
    resolved = resolve(run.recipe, None, {})
    lines = run.recipe.read_text(encoding="utf-8").splitlines()
    noted = [line.rpartition(MARK)[2] for line in lines if MARK in line]
    if len(noted) != len(resolved.sources):
        return resolved
    return replace(resolved, sources=dict(zip(resolved.sources, noted, strict=True)))


def _source(setting: dict[str, Any]) -> str:
    """The source as one line; paths are kept as given, so where they led is noted beside them."""
    source, given = str(setting["source"]), setting["value"]
    if setting["name"] in PATHS and given:
        groups = given.values() if isinstance(given, dict) else [given]
        groups = given if setting["name"] == "data.mix" else groups  # the files are its keys
        paths = [path for group in groups for path in ([group] if isinstance(group, str) else group)]
        source += f": {', '.join(str(Path(path).absolute()) for path in paths)}"
    return " ".join(source.split())  # so that no path can look like the mark


def _given(values: Any, name: str) -> bool:
    first, _, rest = name.partition(".")
    if not isinstance(values, dict):
        return rest == "" and values is not None
    if first not in values:
        return False
    if not rest:
        return True
    inner = values[first]
    # A shorthand such as ``model: NAME`` gives the section's first setting.
    return _given(inner, rest) if isinstance(inner, dict) else rest in {"name", "dir"}
