"""What a run would do, before it does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunewright.core.events import Observer, Stage
from tunewright.core.paths import RunDir
from tunewright.engine.loop import steps_in_order
from tunewright.run import compose, encode
from tunewright.run.resolve import Resolved
from tunewright.run.rows import prepare_rows
from tunewright.run.train import Session, pin_all


def plan(resolved: Resolved, observe: Observer) -> dict[str, Any]:
    """Read the data, load and render, but train nothing and write nothing."""
    compose.check_early(resolved.recipe)
    directory = resolved.recipe.output.dir or str(compose.default_directory(resolved.recipe))
    session = Session(resolved, RunDir(Path(directory)), observe)
    observe(Stage("read data"))
    prepared = prepare_rows(resolved.recipe)
    observe(Stage("load model", resolved.recipe.model.name))
    parts = compose.assemble(resolved.recipe)
    sequences = encode.encode_splits(parts, session, prepared)
    session.resolved = pin_all(session, parts, prepared, sequences)
    steps = steps_in_order(sequences.train, compose.fit_settings(session.recipe))
    return {
        "run": directory,
        "rows": {name: len(getattr(prepared, name)) for name in ("train", "validation", "test")},
        "rejected": len(prepared.rejected),
        "steps": len(steps),
        "tokens": sum(s.tokens for s in steps),
        "render": sequences.facts,
        "settings": session.resolved.settings(),
        "warnings": session.warnings,
    }


def lines(facts: dict[str, Any]) -> list[str]:
    """The plan as text."""
    rows = facts["rows"]
    head = [
        f"run directory   {facts['run']}",
        f"rows            {rows['train']} train, {rows['validation']} validation, {rows['test']} test,"
        f" {facts['rejected']} left out",
        f"work            {facts['steps']} steps, {facts['tokens']} tokens",
        "",
    ]
    return head + [f"{s['name']:<28} {s['value']!s:<34} {s['source']}" for s in facts["settings"]]
