"""Reward models: a head that scores answers, learnt from pairs and rankings of answers to one prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from tunewright.core.errors import DataError
from tunewright.core.records import Example, Preference, Ranking, Tokens
from tunewright.models.placing import placed
from tunewright.objectives.base import (
    BaseObjective,
    Batch,
    Forward,
    HeadSpec,
    Judged,
    LossOut,
    Mean,
    Renderer,
    rows_with,
)
from tunewright.objectives.head_losses import centring, plackett_luce

HALF = 0.5


class Comparisons(NamedTuple):
    """The answers of a batch: their segment, comparison, rank (0 is best) and margin, all (A,).

    ``group`` numbers the comparisons from 0 to ``groups`` - 1.
    """

    segment: Tensor
    group: Tensor
    rank: Tensor
    margin: Tensor
    groups: int


class RewardModelling(BaseObjective):
    """Learn rewards r so that better answers have higher ones.

    loss = sum over comparisons of [-log P(ranking) + centre (sum_i r_i)^2] / comparisons. P is Plackett-Luce;
    for a pair that is Bradley-Terry, -log sigmoid(r_chosen - r_rejected - margin). A ranking counts as one
    comparison, however many answers it has. ``centre`` is 0.01 as Eisenstein et al. 2023 (arXiv 2312.09244)
    advise, where TRL leaves the term out unless asked.
    """

    accepts = frozenset({"preference", "ranking"})
    judged: Judged = "scores"

    @property
    def heads(self) -> Mapping[str, HeadSpec]:
        """One reward, read at the last token of an answer."""
        return {"score": HeadSpec(1, rate=self.options.head_rate, facts={"task": "reward"})}

    def encode(self, example: Example, renderer: Renderer) -> list[Tokens]:
        """The prompt with its answers as branches, each with its rank, and where asked for its margin.

        Raises ``DataError`` for a ranking of one answer or with a score that is not finite, and for a row
        without the margin that is asked for.
        """
        self.check_kind(example)
        ranks = _ranks(example)
        margin = self._margin(example)
        found = renderer.branches(example)
        for tokens in found:
            assert len(tokens.branches) == len(ranks), (
                f"{len(ranks)} answers, {len(tokens.branches)} branches"
            )
        return [replace(tokens, branches=_marked(tokens.branches, ranks, margin)) for tokens in found]

    def count(self, batch: Batch) -> Tensor:
        """The number of comparisons."""
        return batch.extras["rank"].new_full((), float(comparisons(batch).groups))

    def loss(self, forward: Forward, batch: Batch) -> LossOut:
        """Sum over comparisons. Reports how many pairs are in order, by how much, and the mean reward."""
        found = comparisons(batch)
        rewards = forward.scores(batch)[found.segment, 0]
        losses = plackett_luce(rewards, found.rank, found.group, found.margin)
        level = centring(rewards, found.group, found.groups)
        return LossOut(losses.sum() + self.options.centre * level.sum(), _metrics(rewards.detach(), found))

    def _margin(self, example: Example) -> float:
        if self.options.margin == "none":
            return 0.0
        margin = example.margin if isinstance(example, Preference) else None
        if margin is None or not math.isfinite(margin):
            raise DataError(
                f"{example.meta.where()}: margin is 'data', but this row states no margin (a number, in pairs"
                f" only) for objective {self.name!r}; add it, or set margin to none"
            )
        return margin


def comparisons(batch: Batch) -> Comparisons:
    """Who is compared with whom: the answers that continue the same prompt."""
    segment = rows_with(batch, "rank")
    ranked = zip(batch.segments, batch.marks["rank"], strict=True)
    parents = [s.parent for s, rank in ranked if not math.isnan(rank)]
    number = {prompt: i for i, prompt in enumerate(dict.fromkeys(parents))}
    group = placed(torch.tensor([number[p] for p in parents], dtype=torch.long), segment.device)
    rank = batch.extras["rank"][segment]
    return Comparisons(segment, group, rank, batch.extras["margin"][segment], len(number))


def _ranks(example: Example) -> list[int]:
    """The place of each answer, 0 for the best; equal scores share one."""
    if isinstance(example, Preference):
        return [0, 1]
    assert isinstance(example, Ranking)
    if len(example.answers) < 2:
        raise DataError(
            f"{example.meta.where()}: a ranking of {len(example.answers)} answers compares nothing; give at"
            " least two, or remove the row"
        )
    if not all(map(math.isfinite, example.scores)):
        raise DataError(
            f"{example.meta.where()}: the scores of the answers are {list(example.scores)}; each must be a"
            " finite number to rank them"
        )
    order = sorted(set(example.scores), reverse=True)
    return [order.index(score) for score in example.scores]


def _marked(branches: tuple[Tokens, ...], ranks: list[int], margin: float) -> tuple[Tokens, ...]:
    return tuple(
        replace(branch, extras={**branch.extras, "rank": float(rank), "margin": margin * (rank > 0)})
        for branch, rank in zip(branches, ranks, strict=True)
    )


def _metrics(rewards: Tensor, found: Comparisons) -> dict[str, Mean]:
    """Over all pairs of unequal rank. Equal rewards leave a pair to chance, so they count as half right."""
    ordered = (found.group[:, None] == found.group) & (found.rank[:, None] < found.rank)
    lead = rewards[:, None] - rewards
    right = (lead > 0).to(lead.dtype) + HALF * (lead == 0)
    pairs = ordered.sum().to(lead.dtype)
    return {
        "accuracy": Mean(right.where(ordered, 0.0).sum(), pairs),
        "margin": Mean(lead.where(ordered, 0.0).sum(), pairs),
        "reward": Mean(rewards.sum(), rewards.new_full((), float(len(rewards)))),
    }
