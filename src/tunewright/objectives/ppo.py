"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) of a language model and its values.

As in Ziegler et al. 2019 (arXiv 1909.08593): the reward of an answer comes with its last token, the
divergence from the reference is taken off the reward of every token, and its weight may follow a target. A
roll-out asks ``credit`` for the advantages of its tokens, and ``next_kl`` for the weight of the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from tunewright.core.config import Section
from tunewright.objectives.advantages import adapted, explained_variance, gae, penalised, whitened
from tunewright.objectives.base import Batch, Forward, HeadSpec, LossOut, Mean
from tunewright.objectives.policy import PolicyObjective, answers_of, corrected, policy_metrics
from tunewright.objectives.policy_losses import Clip, clipped, clipped_value, out_of_range, token_ratio


class Sampled(NamedTuple):
    """The tokens of S answers, laid end to end: (N,), with ``lengths`` (S,) that sum to N.

    ``reference`` is needed where the divergence has a weight.
    """

    logprobs: Tensor
    values: Tensor
    lengths: Sequence[int]
    reference: Tensor | None = None


class TokenCredit(NamedTuple):
    """What each token teaches, (N,) both, and how much of the returns the value head foresaw."""

    advantages: Tensor
    returns: Tensor
    explained_variance: float


class ProximalPolicy(PolicyObjective):
    """Clipped policy loss plus ``value_weight`` times a clipped value loss, both means over all tokens.

    A batch holds, per sampled token, ``tracks`` "advantage", "return" and "value" (of the roll-out), and may
    hold "old", "sampled" and "reference" as for ``GroupPolicy``.
    """

    def __init__(self, name: str, options: Section) -> None:
        super().__init__(name, options, options.kl.weight)  # type: ignore[attr-defined]
        self.clip = Clip(self.options.clip.low, self.options.clip.high)

    @property
    def heads(self) -> Mapping[str, HeadSpec]:
        """The value of each token's prefix."""
        return {"value": HeadSpec(1, bias=True, rate=self.options.head_rate)}

    def credit(self, rewards: Tensor, sampled: Sampled, kl_weight: float) -> TokenCredit:
        """Advantages and returns of a whole roll-out from the ``rewards`` (S,) of its answers.

        ``kl_weight`` is the weight of the divergence now: ``options.kl.weight`` at first, then ``next_kl``.
        """
        assert kl_weight == 0 or sampled.reference is not None, "a divergence needs the reference"
        reference = sampled.logprobs if sampled.reference is None else sampled.reference
        per_token = penalised(rewards, sampled.logprobs - reference, sampled.lengths, kl_weight)
        if self.options.whiten == "both":
            per_token = whitened(per_token, centre=False)
        advantages, returns = gae(
            per_token, sampled.values, sampled.lengths, self.options.gamma, self.options.lam
        )
        explained = explained_variance(sampled.values, returns)
        if self.options.whiten != "none":
            advantages = whitened(advantages)
        return TokenCredit(advantages, returns, explained)

    def next_kl(self, weight: float, observed: float, answers: int) -> float:
        """The weight of the divergence for the next roll-out.

        ``observed`` is log p - log p_reference, summed over each answer and averaged over the ``answers`` of
        the last one.
        """
        kl = self.options.kl
        return weight if kl.target is None else adapted(weight, observed, kl.target, answers / kl.horizon)

    def loss(self, forward: Forward, batch: Batch) -> LossOut:
        """Sum over tokens of both losses; the trunk runs once for policy and values."""
        hidden = forward.hidden(batch)
        tracks, weights = batch.tracks, batch.targets.weights
        answers = answers_of(batch, forward.logprobs(batch, hidden), tracks["advantage"])
        ratio = token_ratio(answers)
        correction, metrics = corrected(answers, batch, self.options.rollout.importance_cap)
        policy = correction * clipped(ratio, answers, self.clip)
        value = clipped_value(
            forward.values(batch, hidden), tracks["value"], tracks["return"], self.options.clip.value
        )
        metrics |= policy_metrics(answers, batch, ratio, out_of_range(ratio, answers, self.clip))
        metrics["value_loss"] = Mean((value.detach() * weights).sum(), weights.sum())
        return LossOut(((policy + self.options.value_weight * value) * weights).sum(), metrics)
