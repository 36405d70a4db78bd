"""A short measured race: each finalist trains the same adapter from the same start on as many tokens.

What counts is the loss on held-out examples of the problem, which had no part in choosing the finalists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tunewright.adapt.base import trainable, trained_state
from tunewright.core.events import Observer
from tunewright.core.records import Example, Tokens
from tunewright.engine.batch import packed
from tunewright.engine.loop import Fit, FitSettings, Job
from tunewright.engine.plan import Pace, steps_in_order
from tunewright.engine.schedule import auto_rate
from tunewright.evaluate.compare import Difference, paired
from tunewright.evaluate.metrics import Array, Metric
from tunewright.objectives.base import per_segment
from tunewright.run.recommend.settings import DetectiveSettings
from tunewright.run.recommend.subject import Subject, learnable

UPDATES = 6
PIECE = 64  # rows rendered at a time, until there are enough
MICRO = 1024  # tokens computed at once


def _likelihood(losses: Sequence[Array], _: Sequence[Array]) -> Array:
    return -np.asarray(losses, dtype=np.float64)


# Higher is better, so that a difference is a gain.
LIKELIHOOD = Metric(
    "log-likelihood",
    "Mean log-probability of an answer's tokens.",
    _likelihood,
    unit="nats per token",
    bounds=None,
)


@dataclass(frozen=True)
class Lap:
    """What one finalist came to. ``losses`` (held-out examples,) are nats per token after training;
    ``gain`` compares them with those before. ``tokens`` were read, ``trained`` of them learnt from, in
    ``rows`` different rows, ``epochs`` times each. ``weights`` are those of the adapter at the end.
    """

    name: str
    losses: Array
    gain: Difference
    tokens: int
    trained: int
    rows: int
    epochs: float
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Track:
    """Where the race takes place: the model at its start, and the held-out examples with their losses."""

    subject: Subject
    held_out: list[list[Tokens]]
    start: dict[str, Tensor]
    before: Array

    @classmethod
    def laid(cls, subject: Subject, held_out: Sequence[Example]) -> Track:
        """Measure the untouched model. Raises ``DataError`` where nothing of the examples can be read."""
        rows = learnable(subject.rendered(held_out), "the held-out half of the problem")
        return cls(subject, rows, trained_state(subject.model), losses(subject, rows))

    def run(
        self,
        name: str,
        examples: Sequence[Example],
        settings: DetectiveSettings,
        directory: Path,
        observe: Observer,
    ) -> Lap:
        """Train on ``examples`` from the start, and measure; the model keeps what it has learnt."""
        subject = self.subject
        rows = enough(subject, examples, settings.race_tokens)
        sequences = [tokens for row in rows for tokens in row]
        put(subject, self.start)
        job = Job(subject.model, subject.forward, subject.objective, sequences, adapter=subject.adapter)
        rate = auto_rate(subject.width, subject.adapter.rate) * subject.objective.rate
        pace = paced([tokens.size for tokens in sequences], settings.race_tokens, settings.seed)
        how = FitSettings(learning_rate=rate, micro_tokens=MICRO, **asdict(pace))
        fit = Fit(job, how, directory, observe)
        done = fit.run()
        seen = [tokens for planned in fit.plan for tokens in (sequences[row] for row in planned.rows)]
        after = losses(subject, self.held_out)
        return Lap(
            name,
            after,
            gain(self.before, after, settings.seed),
            done.tokens,
            sum(tokens.trained for tokens in seen),
            len(rows),
            fit.plan[-1].epoch,
            trained_state(subject.model),
        )


def paced(sizes: Sequence[int], budget: int, seed: int) -> Pace:
    """Updates of ``budget / UPDATES`` tokens at most, as many as come nearest to ``budget`` tokens."""
    endless = Pace(math.ceil(budget / sum(sizes)) + 1, max(1, budget // UPDATES), seed)
    read = list(accumulate(step.size for step in steps_in_order(sizes, endless)))
    nearest = min(range(len(read)), key=lambda step: abs(read[step] - budget))
    return replace(endless, max_steps=nearest + 1)


def gain(before: Array, after: Array, seed: int) -> Difference:
    """How far the loss fell, example by example, with its interval; positive is good."""
    return paired(LIKELIHOOD, -np.asarray(before), -np.asarray(after), seed=seed)


def enough(subject: Subject, examples: Sequence[Example], budget: int) -> list[list[Tokens]]:
    """The first rows that have ``budget`` tokens together, or all there are.

    Raises ``DataError`` where nothing can be learnt from them.
    """
    rows: list[list[Tokens]] = []
    for begin in range(0, len(examples), PIECE):
        for row in subject.rendered(examples[begin : begin + PIECE]):
            if sum(tokens.size for kept in rows for tokens in kept) >= budget:
                return rows
            rows += [row] if row else []
    return learnable(rows, examples[0].meta.source)


def put(subject: Subject, weights: dict[str, Tensor]) -> None:
    """Set the adapter's weights."""
    with torch.no_grad():
        for name, parameter in trainable(subject.model).items():
            parameter.copy_(weights[name])


@torch.no_grad()
def losses(subject: Subject, rows: Sequence[Sequence[Tokens]]) -> Array:
    """Mean loss per learnt token of each row, nats, (rows,)."""
    subject.model.eval()
    owners = [row for row, sequences in enumerate(rows) for _ in sequences]
    flat = [tokens for sequences in rows for tokens in sequences]
    sums, counts = np.zeros(len(rows)), np.zeros(len(rows))
    for batch in packed(flat, MICRO, subject.forward.device):
        weights = batch.targets.weights
        found = per_segment(-subject.forward.logprobs(batch) * weights, batch), per_segment(weights, batch)
        for into, values in zip((sums, counts), found, strict=True):
            np.add.at(into, [owners[i] for i in batch.rows], values.double().cpu().numpy())
    means: Array = sums / counts
    return means
