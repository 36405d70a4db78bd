"""``tunewright data …``: no model is loaded unless a command names one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from tunewright.cli import output
from tunewright.data import check as checking
from tunewright.data.check_view import check_lines


def check(files: list[Path], columns: list[str] | None, as_json: bool) -> None:
    """Print the report; exit 1 if a row is unusable."""
    report = checking.check([str(f) for f in files], columns=output.columns_of(columns))
    output.emit(report.to_dict(), as_json, list(check_lines(report)))
    if not report.usable:
        raise typer.Exit(1)


def show(file: Path, options: dict[str, Any], as_json: bool) -> None:
    """Print rendered rows token by token."""
    from tunewright.run.looking import rendered_rows

    rows = rendered_rows(
        str(file), options["model"], options["n"], options["train_on"], output.columns_of(options["columns"])
    )
    if as_json:
        output.emit(rows, True, [])
        return
    console = Console(highlight=False)
    for row in rows:
        text = Text()
        for token, weight, _ in row["tokens"]:
            text.append(token, style="bold green" if weight else "dim")
        trained = sum(weight != 0 for _, weight, _ in row["tokens"])
        console.print(f"{row['where']}: {len(row['tokens'])} tokens, {trained} trained", style="cyan")
        console.print(text, soft_wrap=True)
        if not console.is_terminal:
            console.print("weights: " + " ".join(f"{w:g}" for _, w, _ in row["tokens"]), soft_wrap=True)
