"""``tunewright data …``: no model is loaded unless a command names one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from tunewright.cli import output
from tunewright.core.config import build
from tunewright.core.errors import RunError
from tunewright.data import check as checking
from tunewright.data.check_view import check_lines
from tunewright.data.pipeline import Prepared, PrepareSettings, write
from tunewright.data.pipeline import prepare as prepare_rows


def check(files: list[Path], reading: dict[str, Any], as_json: bool) -> None:
    """Print the report; exit 1 if a row is unusable."""
    report = checking.check([str(f) for f in files], **_reading(reading))
    output.emit(report.to_dict(), as_json, list(check_lines(report)))
    if not report.usable:
        raise typer.Exit(1)


def prepare(
    files: list[Path], out: Path, reading: dict[str, Any], split: dict[str, Any], as_json: bool
) -> None:
    """Read, reject, drop duplicates, split, and write it all with the receipt; refuses a directory in use."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} is not empty; choose another directory with --out")
    settings = build(PrepareSettings, {**_reading(reading), "split": split}, where="data prepare")
    prepared = prepare_rows([str(f) for f in files], [], [], settings)
    write(prepared, out)
    output.emit(prepared.receipt, as_json, _receipt_lines(prepared, out))


def show(file: Path, options: dict[str, Any], as_json: bool) -> None:
    """Print rendered rows token by token."""
    from tunewright.run.looking import rendered_rows

    rows, notes = rendered_rows(
        str(file), options["model"], options["n"], options["train_on"], output.columns_of(options["columns"])
    )
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        output.emit(rows, True, [])
        return
    console = Console(highlight=False)
    for row in rows:
        text = Text()
        for token, weight, _ in row["tokens"]:
            text.append(token, style="bold green" if weight else "dim")
        trained = sum(weight != 0 for _, weight, _ in row["tokens"])
        name = f"{row['where']}: " + (f"{row['part']}, " if "part" in row else "")
        console.print(f"{name}{len(row['tokens'])} tokens, {trained} trained", style="cyan")
        console.print(text, soft_wrap=True)
        if not console.is_terminal:
            console.print("weights: " + " ".join(f"{w:g}" for _, w, _ in row["tokens"]), soft_wrap=True)


def _reading(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "columns": output.columns_of(options["columns"])}


def _receipt_lines(prepared: Prepared, out: Path) -> list[str]:
    receipt = prepared.receipt
    lines = [f"{receipt['rows_in']} rows read, {receipt['rows_out']} kept, {receipt['rejected']} left out"]
    reasons = Counter(p.reason for p in prepared.rejected).most_common()
    lines += [f"  {count:>7} left out: {reason}" for reason, count in reasons]
    lines += [f"  {count:>7} repaired: {reason}" for reason, count in receipt["repaired"].items()]
    lines += [f"  {facts['rows']:>7} {out / side}.jsonl" for side, facts in receipt["splits"].items()]
    lines += [f"note: {note}" for note in receipt["notes"]]
    if prepared.rejected:
        lines.append(f"each row that was left out: {out / 'rejected.jsonl'}")
    return [*lines, f"receipt: {out / 'receipt.json'}"]
