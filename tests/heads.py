"""Objectives with a head, in tests: given scores, a reader of numbers, and a short training run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.tiny import tiny_model
from tunewright.adapt.base import adapter_of
from tunewright.core.records import Example, Labelled, Message, Meta, Preference, Ranking, Tokens
from tunewright.engine.batch import build_batch
from tunewright.engine.loop import Fit, FitSettings, Job
from tunewright.models.forward import ModelForward
from tunewright.models.score import attach
from tunewright.objectives.base import Objective, make_objective
from tunewright.objectives.options.table import options_of

VOCAB = 40


def objective(name: str, **options: Any) -> Any:
    """An objective by name with its settings."""
    return make_objective(name, options_of(name, options))


def said(text: str, role: str = "user") -> tuple[Message, ...]:
    """One message."""
    return (Message(role, text),)


def labelled(text: str, label: Any, line: int = 1) -> Labelled:
    """A row of ``rows.jsonl``."""
    return Labelled(said(text), label, Meta("rows.jsonl", line))


def pair(prompt: str, chosen: str, rejected: str, margin: float | None = None) -> Preference:
    """A comparison of two answers, in line 1 of ``pairs.jsonl``."""
    answers = said(chosen, "assistant"), said(rejected, "assistant")
    return Preference(said(prompt), *answers, Meta("pairs.jsonl", 1), margin=margin)


def ranking(prompt: str, answers: Sequence[str], scores: Sequence[float]) -> Ranking:
    """A comparison of several answers, in line 1 of ``ranks.jsonl``."""
    turns = tuple(said(answer, "assistant") for answer in answers)
    return Ranking(said(prompt), turns, tuple(scores), Meta("ranks.jsonl", 1))


class Numbers:
    """A renderer for texts such as ``"3 17 4"``, which are read as these ids; at most ``longest`` of them."""

    def __init__(self, longest: int = 1000) -> None:
        self.longest = longest

    def reading(self, messages: Sequence[Message]) -> list[int]:
        return [int(word) for message in messages for word in message.content.split()]

    def limited(self, tokens: Tokens) -> list[Tokens]:
        return [tokens] if len(tokens.ids) <= self.longest else []

    def branches(self, example: Example) -> list[Tokens]:
        turns = example.answers if isinstance(example, Ranking) else (example.chosen, example.rejected)
        prompt, answers = self.reading(example.prompt), [self.reading(turn) for turn in turns]
        marked = tuple(Tokens(ids, [1.0] * len(ids), meta=example.meta) for ids in answers)
        return [Tokens(prompt, [0.0] * len(prompt), branches=marked, meta=example.meta)]


class Given:
    """A forward whose scores are given: one row of numbers for each segment."""

    def __init__(self, scores: Sequence[Sequence[float]], dtype: torch.dtype = torch.float64) -> None:
        self.table = torch.tensor(scores, dtype=dtype, requires_grad=True)

    def scores(self, batch: Any, hidden: Any = None) -> torch.Tensor:
        return self.table


def encoded(what: Objective, examples: Sequence[Example]) -> list[Tokens]:
    """All sequences of ``examples``."""
    return [tokens for example in examples for tokens in what.encode(example, Numbers())]


def learned(what: Objective, train: Sequence[Example], folder: Path, steps: int = 60) -> ModelForward:
    """A tiny random Llama with the heads of ``what``, all of it trained on ``train`` through the loop."""
    model = tiny_model("llama", VOCAB, num_hidden_layers=2)
    attach(model, what.heads)
    forward = ModelForward(adapter_of("full").attach(model))
    rows = encoded(what, train)
    each = sum(t.size for t in rows) * 8 // steps  # eight passes
    settings = FitSettings(
        epochs=8, learning_rate=4e-3, tokens_per_step=each, micro_tokens=each, max_steps=steps
    )
    Fit(Job(model, forward, what, rows), settings, folder, lambda event: None).run()
    return forward


def scores_of(forward: ModelForward, what: Objective, examples: Sequence[Example]) -> torch.Tensor:
    """The head's scores of every segment of ``examples``: (S, K)."""
    with torch.no_grad():
        return forward.scores(build_batch(encoded(what, examples)))
