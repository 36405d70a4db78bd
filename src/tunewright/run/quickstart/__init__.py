"""The quickstart: bundled tickets, the embedded model, and the whole life cycle in a few minutes."""

from __future__ import annotations

from pathlib import Path

from tunewright.core.events import Observer, Stage
from tunewright.core.paths import RunDir
from tunewright.run.resolve import resolve
from tunewright.run.train import Run, train

HERE = Path(__file__).parent
TICKETS = HERE / "tickets.jsonl"


def run(directory: Path, observe: Observer) -> Run:
    """Check, split, score the base plainly and with examples, train, prove; returns the finished run.

    The tickets hold planted mistakes, listed in ``RULES.md``, so that the check has something to find.
    """
    finished = train(
        resolve(HERE / "recipe.yaml", None, {"data.train": str(TICKETS), "output.dir": str(directory)}),
        observe,
    )
    observe(Stage("done", f"open {RunDir(finished.path).report.resolve().as_uri()}"))
    return finished
