"""``tunewright data recommend``: which of several data sets to train on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from tunewright.cli import output
from tunewright.cli.console import ConsoleObserver
from tunewright.core.config import build
from tunewright.run.recommend.detective import recommend as compare
from tunewright.run.recommend.settings import DetectiveSettings

SHOWN = 400  # characters of a reply that are printed


def recommend(
    problem: Path, candidates: Sequence[Path], options: dict[str, Any], test: Path | None, as_json: bool
) -> None:
    """Compare, print, and exit 1 if training on none of the finalists helps."""
    settings = build(DetectiveSettings, options, where="data recommend")
    document = compare(problem, candidates, settings, test=test, observe=ConsoleObserver())
    output.emit(document, as_json, list(lines_of(document)))
    if document["verdict"]["word"] == "NONE HELPS":
        raise typer.Exit(1)


def lines_of(document: dict[str, Any]) -> Iterator[str]:
    """The document for people."""
    goal = document["problem"]
    yield f"{goal['path']}: {goal['guide']} examples chose, {goal['held_out']} held-out ones measure"
    for found in document["candidates"]:
        yield ""
        yield from _candidate(found)
    for refused in document["refused"]:
        yield ""
        yield f"not ranked: {refused['name']}: {refused['reason']}"
    yield ""
    yield from _verdict(document["verdict"])
    for reply in document["replies"]:
        yield ""
        for name in ("question", "wanted", "before", "after"):
            yield f"{name + ':':<10}{_short(reply[name])}"
    if document["notes"]:
        yield ""
    yield from (f"note: {note}" for note in document["notes"])


def _candidate(found: dict[str, Any]) -> Iterator[str]:
    coverage, gradient = found["coverage"], found["gradient"]
    yield f"{found['rank']}. {found['name']}"
    yield f"   size       {found['rows']:,} rows, about {found['tokens']:,} tokens"
    yield f"   licence    {_licence(found)}"
    yield (
        f"   coverage   {coverage['of_problem']:.0%} of the problem has a row near it,"
        f" {coverage['of_candidate']:.0%} of the rows are near the problem; nearest {coverage['nearest']:.2f}"
    )
    yield (
        f"   gradients  {gradient['score']:+.3f} [{gradient['low']:+.3f}, {gradient['high']:+.3f}]"
        f" (n = {gradient['rows']} rows)"
    )
    yield f"   gain       {_gain(found['race'])}"
    yield from (f"   left out   {said}" for said in _left_out(found))


def _gain(race: dict[str, Any] | None) -> str:
    if race is None:
        return "not raced"
    often = f", {race['epochs']:.1f} times each" if race["epochs"] > 1 else ""
    return (
        f"{output.change(race['gain'], 'nats per token')} nats per token on {race['gain']['n']} examples,"
        f" after {race['tokens']:,} tokens of {race['rows']} rows{often}"
    )


def _licence(found: dict[str, Any]) -> str:
    told = [f"{licence['name']} ({licence['said_by']})" for licence in found["licences"]]
    return ", ".join(told) if told else "unknown"


def _left_out(found: dict[str, Any]) -> Iterator[str]:
    """Rows that took no part, and why."""
    twice = found["duplicates"]
    for name, where in (("problem", "the problem"), ("test", "the test file")):
        exact, asked = twice.get(f"{name}_exact", 0), twice.get(f"{name}_prompt", 0)
        if exact or asked:
            yield f"{exact} rows that stand in {where}, {asked} more that ask the same"
    if found["unusable_rows"]:
        yield f"{found['unusable_rows']} unusable rows; see `tunewright data check {found['name']}`"
    if found["rows_of_another_kind"]:
        yield f"{found['rows_of_another_kind']} rows of another kind than the problem's"
    if found["unread_rows"]:
        yield f"{found['unread_rows']} rows with nothing to learn: cut at --max-length, or not to be rendered"
    if found["cut_rows"]:
        yield f"the ends of {found['cut_rows']} of {found['gradient']['rows']} texts (--max-length)"


def _verdict(verdict: dict[str, Any]) -> Iterator[str]:
    name = f" {verdict['best']}" if verdict["word"] == "TRAIN ON" else ""
    yield f"{verdict['word']}{name}: {verdict['reason']}"
    if verdict["rows_that_would_decide"]:
        yield f"About {verdict['rows_that_would_decide']:,} held-out examples of the problem would decide."


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…"
