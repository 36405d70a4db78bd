"""A whole run in about a second: a two-layer random model, saved as a directory, and a few short rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny import tiny_model, tiny_tokenizer
from tunewright.core.events import Event, silent
from tunewright.run.resolve import resolve
from tunewright.run.train import Run, train

WORDS = ("refund", "order", "card", "ticket", "morning", "customer", "dog", "fox", "amount", "capital")
ANSWERS = ("yes", "no", "later")


def save_small_model(folder: Path, **overrides: object) -> Path:
    """Two layers, float32, with a ChatML tokenizer, in the format every program reads."""
    tiny_model("llama", **overrides).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chats(count: int) -> list[dict[str, Any]]:
    """Chats of two questions, each with an answer of one word; ``group`` puts three rows together."""
    rows = []
    for i in range(count):
        first, second = WORDS[i % 10], WORDS[(i // 10 + i) % 10]
        turns = [
            {"role": "user", "content": f"The {first} of {second}, number {i}?"},
            {"role": "assistant", "content": ANSWERS[i % 3]},
            {"role": "user", "content": f"And the {second}?"},
            {"role": "assistant", "content": ANSWERS[(i + 1) % 3]},
        ]
        rows.append({"messages": turns, "group": f"g{i // 3}"})
    return rows


def small_values(model: Path, data: Path, out: Path) -> dict[str, Any]:
    """A recipe for these, as dotted names."""
    return {
        "model.name": str(model),
        "model.dtype": "float32",
        "model.device": "cpu",
        "data.train": str(data),
        "data.split.validation": 0.15,
        "data.split.test": 0.15,
        "adapt.rank": 4,
        "train.max_steps": 3,
        "train.tokens_per_step": 300,
        "train.learning_rate": 0.01,
        "evaluate.max_new_tokens": 2,
        "evaluate.metrics": ["exact_match"],
        "output.dir": str(out),
    }


def small_train(values: dict[str, Any], observe: Any = silent) -> tuple[Run, list[Event]]:
    """Run the recipe that the dotted ``values`` make; returns the run and all its events."""
    seen: list[Event] = []

    def both(event: Event) -> None:
        seen.append(event)
        observe(event)

    return train(resolve(None, None, values), both), seen
