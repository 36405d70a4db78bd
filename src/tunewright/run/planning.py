"""What a run would do, before it does it."""

from __future__ import annotations

from typing import Any

from tunewright.core.events import Observer
from tunewright.run import compose, encode
from tunewright.run.ready import make_ready
from tunewright.run.resolve import Resolved
from tunewright.run.rows import prepare_rows
from tunewright.run.session import Session
from tunewright.run.supply import check_supplies
from tunewright.run.task_files import train_files
from tunewright.run.train import settled


def plan(resolved: Resolved, observe: Observer) -> dict[str, Any]:
    """Read the data, load and render, but train nothing and write nothing."""
    resolved, run = settled(resolved)
    compose.check_early(resolved.recipe)
    session = Session(resolved, run, observe)
    with session.stage("check data", train_files(session.recipe)):
        splits = prepare_rows(session.recipe)
    ready = make_ready(session, splits)
    check_supplies(session, ready)
    objective = ready.parts.objective
    settings = compose.fit_settings(session.recipe, objective)
    steps = encode.planned(objective, ready.sequences.train, settings.pace, objective.updates)
    return {
        "run": str(run.root),
        "rows": {name: len(getattr(splits, name)) for name in ("train", "validation", "test")},
        "rejected": len(splits.rejected),
        "steps": len(steps),
        "tokens": sum(ready.sequences.train[row].size for s in steps for row in s.rows),
        "render": ready.sequences.facts,
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
        *([f"remark          {facts['remark']}"] if facts.get("remark") else []),
        "",
    ]
    return head + [f"{s['name']:<28} {s['value']!s:<34} {s['source']}" for s in facts["settings"]]
