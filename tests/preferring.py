"""Pairs and liked answers with a rule to learn, and a plain training loop over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from tests.tiny import tiny_model
from tunewright.core.records import Tokens
from tunewright.engine.batch import build_batch
from tunewright.models.forward import ModelForward
from tunewright.objectives.base import Batch, Objective, make_objective, per_segment
from tunewright.objectives.options.table import options_of

VOCAB, SEPARATOR, END = 60, 50, 51
LOW, HIGH = [30, 31, END], [40, 41, END]  # the right answers to low and high numbers
OTHER = [[45, 46, 47, END], [35, END]]  # answers to other prompts


def objective(name: str, **options: object) -> Objective:
    """The objective called ``name`` with some settings."""
    return make_objective(name, options_of(name, options))


def forward(seed: int = 0) -> ModelForward:
    """A tiny random model that is trained in full."""
    return ModelForward(tiny_model("llama", VOCAB, seed=seed, num_hidden_layers=1))


def prompts(count: int, seed: int) -> list[tuple[list[int], bool]]:
    """Three numbers, all below 10 or all from 10 to 19, and a separator; whether they are high."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(0, 10, (count, 3), generator=generator)
    high = torch.randint(0, 2, (count, 1), generator=generator)
    return [
        ([*three, SEPARATOR], bool(h))
        for three, [h] in zip((numbers + 10 * high).tolist(), high.tolist(), strict=True)
    ]


def branch(ids: Sequence[int], **extras: float) -> Tokens:
    return Tokens(list(ids), [1.0] * len(ids), extras=dict(extras))


def pair(prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int]) -> Tokens:
    """A pair as ``Preferences.encode`` gives it."""
    branches = (branch(chosen, chosen=1.0), branch(rejected, chosen=0.0))
    return Tokens(list(prompt), [0.0] * len(prompt), branches=branches)


def pairs(count: int, seed: int) -> list[Tokens]:
    """Pairs of the right and the wrong answer."""
    answers = {True: (HIGH, LOW), False: (LOW, HIGH)}
    return [pair(prompt, *answers[high]) for prompt, high in prompts(count, seed)]


def judged(count: int, seed: int) -> list[Tokens]:
    """Right answers that were liked and wrong ones that were not, each beside a borrowed answer."""
    coins = torch.randint(0, 6, (count, 2), generator=torch.Generator().manual_seed(seed + 1)).tolist()
    rows = []
    for (prompt, high), (coin, drawn) in zip(prompts(count, seed), coins, strict=True):
        right = coin % 2 == 1
        own, opposite = (HIGH, LOW) if high == right else (LOW, HIGH)
        borrowed = branch([opposite, *OTHER][drawn % 3], borrowed=1.0)
        branches = (branch(own, liked=float(right)), borrowed)
        rows.append(Tokens(prompt, [0.0] * len(prompt), branches=branches))
    return rows


@torch.no_grad()
def with_reference(rows: Sequence[Tokens], reference: ModelForward) -> list[Tokens]:
    """Every branch with its log-probability under ``reference``, as a run supplies it."""
    found = []
    for row in rows:
        batch = build_batch([row])
        sums = per_segment(reference.logprobs(batch) * batch.targets.weights, batch).tolist()[1:]
        branches = zip(row.branches, sums, strict=True)
        found.append(
            replace(row, branches=tuple(replace(b, extras={**b.extras, "reference": s}) for b, s in branches))
        )
    return found


def gradient(model: torch.nn.Module) -> torch.Tensor:
    """All gradients end to end."""
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


def step_gradient(what: Objective, with_forward: ModelForward, batches: Sequence[Batch]) -> torch.Tensor:
    """The gradient of one update: summed losses over the summed count."""
    with_forward.model.zero_grad()
    count = sum(what.count(batch) for batch in batches)
    for batch in batches:
        (what.loss(with_forward, batch).total / count).backward()
    return gradient(with_forward.model)


def measure(what: Objective, with_forward: ModelForward, rows: Sequence[Tokens], metric: str) -> float:
    """A metric of the objective over ``rows``."""
    with torch.no_grad():
        mean = what.loss(with_forward, build_batch(rows)).metrics[metric]
    return float(mean.total / mean.weight)


def train(
    what: Objective, with_forward: ModelForward, rows: Sequence[Tokens], steps: int, rate: float
) -> None:
    """``steps`` updates with Adam, 8 rows each, in order."""
    optimizer = torch.optim.Adam(with_forward.model.parameters(), lr=rate)
    for step in range(steps):
        at = step * 8 % len(rows)
        batch = build_batch(rows[at : at + 8])
        optimizer.zero_grad()
        (what.loss(with_forward, batch).total / what.count(batch)).backward()
        optimizer.step()
