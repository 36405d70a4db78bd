"""What a run would do, before it does it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from tunewright.core.errors import ConfigError
from tunewright.core.events import Observer
from tunewright.core.records import Tokens
from tunewright.data.pipeline import Prepared
from tunewright.engine.footprint import total
from tunewright.engine.memory import room_mb
from tunewright.models.load import load
from tunewright.models.shell import load_shell
from tunewright.run import compose, encode
from tunewright.run.memory_advice import Advice, advice
from tunewright.run.memory_asked import longest_prompts
from tunewright.run.memory_plan import MB, Case, Prediction
from tunewright.run.mixing import MAIN
from tunewright.run.ready import Ready, make_ready
from tunewright.run.recipe import Recipe
from tunewright.run.resolve import Resolved
from tunewright.run.rows import prepare_rows
from tunewright.run.session import Session
from tunewright.run.supply import check_supplies
from tunewright.run.task_files import train_files
from tunewright.run.train import settled

UNITS = {"mb": 1.0, "mib": 1.0, "gb": 1024.0, "gib": 1024.0}
PHASES = {"load": "loading the model", "train": "training", "answer": "answering the test rows"}


def plan(resolved: Resolved, observe: Observer, room: float | None = None) -> dict[str, Any]:
    """Read the data, render and count, but train nothing, write nothing and load no weights.

    ``room`` is the memory to plan for in MB, if not all that is there. Where only a head trains the weights
    are read after all: its learning rate depends on what the model makes of the rows.
    """
    resolved, run = settled(resolved)
    compose.check_early(resolved.recipe)
    session = Session(resolved, run, observe)
    with session.stage("check data", train_files(session.recipe)):
        splits = prepare_rows(session.recipe)
    needed = session.recipe.adapt.method == "head" and session.recipe.train.learning_rate == "auto"
    ready = make_ready(session, splits, load if needed else load_shell, room)
    check_supplies(session, ready)
    objective = ready.parts.objective
    pace = compose.pace_of(session.recipe, objective)
    steps = encode.planned(objective, ready.sequences.train, pace, objective.updates)
    return {
        "run": str(run.root),
        "rows": {name: len(getattr(splits, name)) for name in ("train", "validation", "test")},
        "rejected": len(splits.rejected),
        "mix": _mix(splits, ready.sequences.train),
        "steps": len(steps),
        "tokens": sum(ready.sequences.train[row].size for s in steps for row in s.rows),
        "render": ready.sequences.facts,
        "memory": _memory(session.recipe, ready, room),
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
        *_mix_lines(facts["mix"]),
        f"work            {facts['steps']} steps, {facts['tokens']} tokens",
        *_memory_lines(facts["memory"]),
        *([f"remark          {facts['remark']}"] if facts.get("remark") else []),
        "",
    ]
    return head + [f"{s['name']:<28} {s['value']!s:<34} {s['source']}" for s in facts["settings"]]


def megabytes(text: str) -> float:
    """``4GB`` or ``800MB`` in MB (2**20 bytes). Raises ``ConfigError``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip().lower())
    if found is None or found[2] not in UNITS or not float(found[1]):
        raise ConfigError(f"--memory {text!r} is no amount of memory; write 4GB or 800MB")
    return float(found[1]) * UNITS[found[2]]


def _mix(splits: Prepared, train: Sequence[Tokens]) -> list[dict[str, Any]]:
    """What was mixed in and the main rows, each with its share of the rows and of the tokens.

    Those are the tokens that are learnt, or all that are read where a head learns or answers are sampled.
    """
    if "mix" not in splits.receipt:
        return []
    learns = any(tokens.trained for tokens in train)
    counts = Counter[str]()
    for tokens in train:
        counts[tokens.meta.mixed or MAIN] += tokens.trained if learns else tokens.size
    whole = max(counts.total(), 1)
    mix = splits.receipt["mix"]
    return [
        {
            "source": facts.get("source", MAIN),
            "rows": facts["rows"],
            "share": facts["share"],
            "share_of_tokens": round(counts[facts.get("source", MAIN)] / whole, 6),
            **({"weight": facts["weight"]} if "weight" in facts else {}),
        }
        for facts in (mix[MAIN], *mix["sources"])
    ]


def _mix_lines(mix: Sequence[dict[str, Any]]) -> Iterator[str]:
    for number, facts in enumerate(mix):
        asked = f", weight {facts['weight']:g}" if "weight" in facts else ""
        rows = f"{facts['rows']} rows, {facts['share']:.1%}{asked}"
        yield (
            f"{'' if number else 'mixture':<15} {facts['source']}: {rows};"
            f" {facts['share_of_tokens']:.1%} of the tokens"
        )


def _memory(recipe: Recipe, ready: Ready, room: float | None) -> dict[str, Any]:
    """What the run needs, what there is, and what would make it fit; all in MB."""
    device = ready.parts.loaded.precision.device
    case = Case.of(recipe, ready.parts, ready.sequences, longest_prompts(ready))
    there = room or room_mb(device)
    facts: dict[str, Any] = {"device": device.type, "room_mb": round(there), "unknown": case.unknown}
    if case.unknown:
        return facts
    found = case.predict(recipe)
    facts |= _shown(found) | {"fits": found.peak <= there * MB, "advice": None}
    if not facts["fits"]:
        way = advice(case, found, int(there * MB))
        facts["advice"] = way and {"settings": _flat(way), **_shown(way.prediction)}
    return facts


def _shown(found: Prediction) -> dict[str, Any]:
    parts = {"program": found.program, **found.phases[found.phase]}
    return {
        "peak_mb": round(found.peak / MB),
        "phase": found.phase,
        "parts_mb": {name: round(size / MB) for name, size in parts.items() if size},
        "phases_mb": {name: round((found.program + total(p)) / MB) for name, p in found.phases.items()},
    }


def _flat(way: Advice) -> dict[str, Any]:
    """Settings as they are written on the command line."""
    flat: dict[str, Any] = {}
    for name, value in way.settings.items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _memory_lines(facts: dict[str, Any]) -> Iterator[str]:
    if facts["unknown"]:
        yield f"memory          not predicted: {facts['unknown']}"
        return
    parts = ", ".join(f"{name} {size}" for name, size in facts["parts_mb"].items())
    yield f"memory          {facts['peak_mb']} MB at most, while {PHASES[facts['phase']]}: {parts}"
    there = f"{facts['room_mb']} MB on the {facts['device']}"
    if facts["fits"]:
        yield f"room            {there}: it fits"
        return
    yield f"room            {there}: it does not fit"
    way = facts["advice"]
    if way is None:
        yield "                no setting that Tunewright knows would make it fit; choose a smaller model"
    else:
        words = " ".join(f"{name}={value}" for name, value in way["settings"].items())
        yield f"                it would with {words} ({way['peak_mb']} MB)"
