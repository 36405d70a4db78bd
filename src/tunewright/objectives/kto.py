"""KTO: learning from single answers that were liked or not.

The reference point. KTO compares how far the model has moved on an answer, r(y) = log p(y|x) - log q(y|x),
with how far it has moved in general, z = max(0, KL(p || q)). The paper and TRL estimate the KL by the mean
of r over a micro-batch in which answers are moved to other prompts. The gradient of a row then depends on
which rows share its micro-batch, and with one row per micro-batch z is no estimate at all.

Here every row carries its own: ``kl_samples`` answers of other training rows, drawn by a hash of the row,
stand beside its answer as further branches of its prompt, and z is max(0, mean of their r). That is the
paper's KL at this prompt, from fewer samples. It costs those answers' tokens (the prompt is shared) and is
the same however a step is cut, on any number of ranks and after a resume. What it costs in noise is bounded:
z is a constant in the gradient, so it changes how much a row counts, by the slope of the logistic function,
and never in which direction. The mean over one row, clamped, lies above the clamped mean over many; more
samples bring them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from itertools import chain
from math import nan
from typing import Self

from torch import Tensor

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.hashing import example_digest, unit_interval
from tunewright.core.records import Example, Labelled, Message, Ranking, Tokens
from tunewright.objectives.base import (
    BaseObjective,
    Batch,
    Forward,
    LossOut,
    Mean,
    Renderer,
    per_segment,
    rows_with,
)
from tunewright.objectives.preference import HALF, reference_of
from tunewright.objectives.preference_losses import kto

_DRAWS = 8


class LikedOrNot(BaseObjective):
    """Make liked answers likelier and disliked ones less likely, relative to how far the model has moved.

    loss = sum over rows of ``preference_losses.kto`` / number of rows.
    """

    requires = frozenset({"reference"})
    accepts = frozenset({"labelled"})
    judged = "preferences"
    rate = 0.1  # at the rate that suits answers, comparisons drive a model far beyond what they say
    _answers: tuple[Message, ...] = ()

    def fitted(self, train: Sequence[Example]) -> Self:
        """The objective with the answers of the training rows, to borrow from.

        Raises ``DataError`` unless some answers are liked and some not, and two differ.
        """
        rows = [_checked(example, self.name) for example in train]
        liked = sum(row.label is True for row in rows)
        if rows and liked in (0, len(rows)):
            raise DataError(
                f"all {len(rows)} training rows are {'liked' if liked else 'disliked'}, but {self.name}"
                f" learns from the difference; add rows of the other kind{', or use sft' * bool(liked)}"
            )
        other = copy(self)
        other._answers = tuple(row.messages[-1] for row in rows)
        if self.options.kl_samples and rows and all(a == other._answers[0] for a in other._answers):
            raise DataError(
                f"all {len(rows)} training rows have the same answer, so {self.name} has none to compare"
                " with; give others, or set kl_samples to 0"
            )
        return other

    def encode(self, example: Example, renderer: Renderer) -> list[Tokens]:
        """The prompt with the answer and the borrowed ones as branches; none if left out as over-long."""
        row = _checked(example, self.name)
        prompt, own = row.messages[:-1], row.messages[-1]
        borrowed = self._borrowed(row, own)
        answers = tuple((answer,) for answer in (own, *borrowed))
        scores = (float(row.label is True), *(nan for _ in borrowed))  # borrowed answers are not judged
        together = Ranking(prompt, answers, scores, row.meta)
        marks = {"liked": float(row.label is True)}, *({"borrowed": 1.0} for _ in borrowed)
        return [tokens.with_branches_marked(marks) for tokens in renderer.branches(together)]

    def count(self, batch: Batch) -> Tensor:
        """The number of rows."""
        return (~batch.extras["liked"].isnan()).sum().float()

    def loss(self, forward: Forward, batch: Batch) -> LossOut:
        """Sum over rows. Reports the implied rewards, and how many rows lie on the right side of z."""
        logprobs = per_segment(forward.logprobs(batch) * batch.targets.weights, batch)
        ratios = logprobs - reference_of(batch)
        rows = rows_with(batch, "liked")
        liked = batch.extras["liked"][rows] == 1
        kl = self._moved(ratios.detach(), batch, len(rows))
        losses = kto(
            ratios[rows],
            kl,
            liked,
            beta=self.options.beta,
            desirable_weight=self.options.desirable_weight,
            undesirable_weight=self.options.undesirable_weight,
        )
        return LossOut(losses.sum(), self._metrics(ratios[rows].detach(), kl, liked))

    def _borrowed(self, row: Labelled, own: Message) -> list[Message]:
        """``kl_samples`` answers of other rows, always the same for the same row and training data."""
        if not self.options.kl_samples:
            return []
        assert self._answers, "kto borrows answers of the training rows: call fitted first"
        key = example_digest(row)
        return [
            next(answer for answer in self._drawn(key, sample) if answer != own)
            for sample in range(self.options.kl_samples)
        ]

    def _drawn(self, key: str, sample: int) -> Iterator[Message]:
        """Answers in the order in which they are tried; all of them in the end."""
        count = len(self._answers)
        places = (int(unit_interval(self.name, key, sample, i) * count) for i in range(_DRAWS))
        return chain((self._answers[place] for place in places), self._answers)

    def _moved(self, ratios: Tensor, batch: Batch, rows: int) -> Tensor:
        """The mean log-ratio of the borrowed answers of each row: (R,)."""
        if not self.options.kl_samples:
            return ratios.new_zeros(rows)
        return ratios[rows_with(batch, "borrowed")].view(rows, -1).mean(1)

    def _metrics(self, ratios: Tensor, kl: Tensor, liked: Tensor) -> dict[str, Mean]:
        beta = self.options.beta
        lead = beta * (ratios - kl.clamp(min=0))
        lead = lead.where(liked, -lead)
        count, good = lead.new_full((), float(len(lead))), liked.to(lead.dtype)
        return {
            "margin": Mean(lead.sum(), count),
            "accuracy": Mean((lead > 0).sum() + HALF * (lead == 0).sum(), count),
            "reward_liked": Mean((beta * ratios * good).sum(), good.sum()),
            "reward_disliked": Mean((beta * ratios * (1 - good)).sum(), (1 - good).sum()),
            "kl": Mean(kl.sum(), count),
        }


def _checked(example: Example, name: str) -> Labelled:
    """The row, if it judges an answer. Raises ``ConfigError`` otherwise."""
    if isinstance(example, Labelled) and isinstance(example.label, bool):
        last = example.messages[-1:]
        if last and last[0].role == "assistant":
            return example
    raise ConfigError(
        f"objective {name!r} learns from chats that end in an answer with the label true or false;"
        f" {example.meta.where()} is none"
    )
