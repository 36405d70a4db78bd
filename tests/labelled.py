"""Small labelled data that a tiny model can learn: a word in the text decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.contract.small import write_rows

COLOURS = ("red", "blue", "green")
THINGS = ("order", "card", "ticket", "dog", "fox", "amount", "customer", "morning", "capital", "refund")
FILLER = ("please", "today", "thanks", "again", "quickly", "now", "soon")
SIZES = ("small", "medium", "large")


def text(i: int, word: str) -> str:
    """A sentence around ``word``, different for every ``i``."""
    return f"{FILLER[i % 7]} the {THINGS[i % 10]} is {word} {FILLER[(i // 7) % 7]} {i}"


def single(path: Path, count: int = 90) -> Path:
    """One of three colours."""
    rows = [{"text": text(i, COLOURS[i % 3]), "label": COLOURS[i % 3]} for i in range(count)]
    return write_rows(path, rows)


def multi(path: Path, count: int = 90) -> Path:
    """One or two of three colours."""
    rows: list[dict[str, Any]] = []
    for i in range(count):
        named = sorted({COLOURS[i % 3], COLOURS[(i // 3) % 3]})
        rows.append({"text": text(i, " and ".join(named)), "label": named})
    return write_rows(path, rows)


def ordinal(path: Path, count: int = 90) -> Path:
    """One of three sizes, which have an order."""
    rows = [{"text": text(i, SIZES[i % 3]), "label": SIZES[i % 3]} for i in range(count)]
    return write_rows(path, rows)


def numbers(path: Path, count: int = 120) -> Path:
    """A number that a word decides, and a little noise."""
    values = {"small": 10.0, "medium": 20.0, "large": 40.0}
    rows = [
        {"text": text(i, SIZES[i % 3]), "label": values[SIZES[i % 3]] + (i % 5) / 10} for i in range(count)
    ]
    return write_rows(path, rows)


def labels_of(path: Path) -> list[Any]:
    """The labels of a JSONL file, in order."""
    return [json.loads(line)["label"] for line in path.read_text(encoding="utf-8").splitlines()]
