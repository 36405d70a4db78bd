"""Options that several commands share, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Files = Annotated[list[Path], typer.Argument(help="JSONL, JSON, CSV, Parquet or text files.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="Where to find what, e.g. --column prompt=body; repeatable."),
]
Format = Annotated[str | None, typer.Option(help="Format of the rows, instead of recognising it.")]
Group = Annotated[str | None, typer.Option(help="Key whose rows must stay on one side of a split.")]
Benchmarks = Annotated[
    list[str] | None,
    typer.Option("--benchmark", help="NAME=FILE of test items to look for in the rows; repeatable."),
]
