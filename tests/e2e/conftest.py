"""A tiny model in a directory, a toy task, and the command line called as the shell calls it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.tiny import tiny_model, tiny_tokenizer
from tunewright.cli.main import main
from tunewright.run.recipe import parse_override
from tunewright.run.resolve import Resolved, resolve
from tunewright.run.train import Run, train

COLOURS = ("red", "blue", "green", "pink", "grey", "gold", "teal", "plum")
THINGS = ("box", "car", "hat", "cup", "pen", "map", "fox", "jar")
# Fewest steps that still train, evaluate twice and keep a checkpoint.
QUICK = (
    "train.epochs=2",
    "train.tokens_per_step=256",
    "train.learning_rate=0.003",
    "evaluate.max_new_tokens=8",
    "data.split.validation=0.2",
    "data.split.test=0.3",
)


class Said(NamedTuple):
    """What a command answered."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A random two-layer model with tokenizer, in transformers' format."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def tw(capsys, monkeypatch):
    """Run ``tunewright WORDS…`` in this process; returns status, stdout and stderr."""

    def call(*words) -> Said:
        monkeypatch.setattr(sys, "argv", ["tunewright", *map(str, words)])
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(status, said.out, said.err)

    return call


def pairs(count: int = 40) -> list[tuple[str, str]]:
    """Different questions, answers of one word."""
    every = [(f"{c} {t}?", c.upper()) for t in THINGS for c in COLOURS]
    return every[:count]


def write_messages(path: Path, rows) -> Path:
    """Rows of (question, answer) as chat messages, one JSON object a line."""
    lines = [
        json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]})
        for q, a in rows
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def settings(tiny: Path, data: Path, out: Path, *words: str) -> Resolved:
    """The quick recipe on the tiny model, with ``words`` such as ``adapt.method=full`` on top."""
    base = {"model.name": str(tiny), "data.train": str(data), "output.dir": str(out)}
    return resolve(None, None, base | dict(parse_override(w) for w in (*QUICK, *words)))


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Forty short chats."""
    return write_messages(tmp_path_factory.mktemp("data") / "colours.jsonl", pairs())


@pytest.fixture(scope="session")
def lora(tiny, data, tmp_path_factory) -> Run:
    """A finished LoRA run in float32, with both baselines."""
    words = (
        "model.dtype=float32",
        "evaluate.baselines=[zero_shot, few_shot]",
        "evaluate.metrics=[exact_match, perplexity]",
    )
    return train(settings(tiny, data, tmp_path_factory.mktemp("runs") / "lora", *words))


@pytest.fixture(scope="session")
def full(tiny, data, tmp_path_factory) -> Run:
    """A finished run of all weights, long enough to write answers, in the machine's own number format."""
    words = (
        "adapt.method=full",
        "evaluate.metrics=[exact_match, perplexity]",
        "train.epochs=25",
        "train.learning_rate=0.004",
        "evaluate.every=15",
        "train.stop.patience=0",
    )
    return train(settings(tiny, data, tmp_path_factory.mktemp("runs") / "full", *words))
