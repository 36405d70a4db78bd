"""Learning from pairs of answers: DPO and its relatives, one class over the table of losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tunewright.core.config import Section
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.records import Example, Preference, Tokens
from tunewright.models.placing import placed
from tunewright.objectives.base import (
    BaseObjective,
    Batch,
    Forward,
    LossOut,
    Mean,
    Renderer,
    per_segment,
    rows_with,
    segment_lengths,
)
from tunewright.objectives.preference_losses import PREFERENCE_LOSSES, Pairs, measured

HALF = 0.5


class Preferences(BaseObjective):
    """Make chosen answers likelier than rejected ones.

    loss = sum over pairs of the loss called ``name`` / number of pairs. The prompt of a pair is computed
    once. Raises ``ConfigError`` for a changed setting that the loss does not read.
    """

    accepts = frozenset({"preference"})
    judged = "preferences"
    rate = 0.1  # at the rate that suits answers, comparisons drive a model far beyond what they say

    def __init__(self, name: str, options: Section) -> None:
        super().__init__(name, options)
        self._loss = PREFERENCE_LOSSES[name]
        self._settings = _settings(name, options)
        self._margins = getattr(options, "margin", "none") == "data"
        if self._loss.needs_reference:
            self.requires = frozenset({"reference"})

    def encode(self, example: Example, renderer: Renderer) -> list[Tokens]:
        """The prompt with the chosen and the rejected answer as branches; none if left out as over-long.

        Raises ``DataError`` for a row without the margin that is asked for.
        """
        self.check_kind(example)
        assert isinstance(example, Preference)
        marks = {"chosen": 1.0, **self._margin(example)}, {"chosen": 0.0}
        return [tokens.with_branches_marked(marks) for tokens in renderer.branches(example)]

    def count(self, batch: Batch) -> Tensor:
        """The number of pairs."""
        return (batch.extras["chosen"] == 1).sum().float()

    def loss(self, forward: Forward, batch: Batch) -> LossOut:
        """Sum over pairs. Reports the implied rewards, their margin, and how many pairs are in order."""
        if self._loss.aligned:
            logprobs, alignment = _aligned_logprobs(forward, batch)
        else:
            logprobs, alignment = forward.logprobs(batch), None
        pairs = self._pairs(batch, logprobs, alignment)
        extra: dict[str, Any] = {}
        if self._margins:
            extra["margin"] = batch.extras["margin"][rows_with(batch, "chosen", 1)]
        losses = self._loss(pairs, **self._settings, **extra)
        return LossOut(losses.sum(), self._metrics(pairs))

    def _margin(self, example: Preference) -> dict[str, float]:
        if not self._margins:
            return {}
        if example.margin is None or not math.isfinite(example.margin):
            raise DataError(
                f"{example.meta.where()}: margin is 'data', but this row states no margin (a number) for"
                f" objective {self.name!r}; add it, or set margin to none"
            )
        return {"margin": example.margin}

    def _pairs(self, batch: Batch, logprobs: Tensor, alignment: Tensor | None) -> Pairs:
        """One entry per pair; the chosen and the rejected answers of a batch stand in the same order."""
        chosen, rejected = (rows_with(batch, "chosen", mark) for mark in (1, 0))
        assert len(chosen) == len(rejected), f"{len(chosen)} chosen but {len(rejected)} rejected answers"
        sums = per_segment(logprobs * batch.targets.weights, batch)
        lengths = segment_lengths(batch)
        reference = reference_of(batch) if self._loss.needs_reference else torch.zeros_like(sums)
        return Pairs(
            sums[chosen],
            sums[rejected],
            reference[chosen],
            reference[rejected],
            lengths[chosen],
            lengths[rejected],
            None if alignment is None else alignment[chosen] * alignment[rejected],
        )

    def _metrics(self, pairs: Pairs) -> dict[str, Mean]:
        """A tie leaves a pair to chance, so it counts as half right."""
        scale = self._settings.get("beta", self._loss.scale)
        better, worse = (scale * values.detach() for values in measured(pairs, self._loss.basis))
        margin = better - worse
        count = margin.new_full((), float(len(margin)))
        return {
            "margin": Mean(margin.sum(), count),
            "accuracy": Mean((margin > 0).sum() + HALF * (margin == 0).sum(), count),
            "reward_chosen": Mean(better.sum(), count),
            "reward_rejected": Mean(worse.sum(), count),
            "logp_chosen": Mean(pairs.chosen.detach().sum(), count),
            "logp_rejected": Mean(pairs.rejected.detach().sum(), count),
        }


def reference_of(batch: Batch) -> Tensor:
    """Log-probability of each branch under the reference, (S,); 0 for segments that are no branch."""
    branches = [segment.parent is not None for segment in batch.segments]
    marks = batch.marks.get("reference", (math.nan,) * len(branches))
    assert not any(math.isnan(mark) for mark, branch in zip(marks, branches, strict=True) if branch), (
        "a branch without its log-probability under the reference"
    )
    return torch.where(placed(torch.tensor(branches), batch.ids.device), batch.extras["reference"], 0.0)


def _aligned_logprobs(forward: Forward, batch: Batch) -> tuple[Tensor, Tensor]:
    """log p of each target (N,), and exp of its mean excess over log sum_v p(v)^2 of each segment (S,)."""
    found = forward.per_target(batch, _with_concentration(batch.targets.ids))
    logprobs, concentration = found.unbind(1)
    weights = batch.targets.weights
    excess = per_segment((logprobs - concentration).detach() * weights, batch)
    return logprobs, (excess / segment_lengths(batch).clamp(min=1e-9)).exp()


def _with_concentration(ids: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of logits (n, V) and target indices (n,): log p(target) and log sum_v p(v)^2, (n, 2)."""

    def both(logits: Tensor, index: Tensor) -> Tensor:
        logp = logits.log_softmax(-1)
        target = logp.gather(1, ids[index][:, None])[:, 0]
        return torch.stack([target, (2 * logp.detach()).logsumexp(-1)], dim=1)

    return both


def _settings(name: str, options: Section) -> dict[str, float]:
    """The settings that are numbers. Raises ``ConfigError`` for a changed one that the loss does not read."""
    reads = PREFERENCE_LOSSES[name].reads
    for setting, field in type(options).model_fields.items():
        value = getattr(options, setting)
        if setting not in reads and value != field.default:
            known = sorted(n for n, loss in PREFERENCE_LOSSES.items() if setting in loss.reads)
            raise ConfigError(
                f"objective {name!r} has no use for {setting} (got {value!r}); it is read by"
                f" {', '.join(known)}"
            )
    values = {setting: getattr(options, setting) for setting in reads if hasattr(options, setting)}
    return {setting: value for setting, value in values.items() if not isinstance(value, str)}
