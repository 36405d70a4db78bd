"""What each sampled answer is worth to an objective: the numbers that a roll-out puts beside its tokens.

S answers in order, their N sampled tokens laid end to end; everything is on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from tunewright.objectives import ppo
from tunewright.objectives.policy import GroupPolicy, PolicyObjective
from tunewright.objectives.ppo import ProximalPolicy


class Measured(NamedTuple):
    """What is known of the sampled tokens, (N,) each; ``lengths`` (S,) sum to N.

    ``sampled`` are log-probabilities under the model that wrote the answers, ``old`` under the model in
    training (``None`` where they are not needed), ``reference`` under the untouched one, ``values`` from the
    value head.
    """

    lengths: list[int]
    sampled: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None
    values: Tensor | None = None

    @property
    def divergence(self) -> Tensor | None:
        """log p - log p_reference, summed over each answer: (S,)."""
        if self.reference is None:
            return None
        own = self.sampled if self.old is None else self.old
        return torch.stack([part.sum() for part in (own - self.reference).split(self.lengths)])


@dataclass(frozen=True)
class Credited:
    """``advantages`` (S,) of answers, or ``tracks`` (N,) of their tokens; which groups are ``kept``, (P,)."""

    kept: list[bool]
    advantages: Tensor | None = None
    tracks: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    kl_weight: float = 0.0


def needs_old(objective: PolicyObjective) -> bool:
    """Whether the log-probabilities of the model in training must be known before the first update.

    With one update they are those of the update itself, so nothing is computed twice.
    """
    in_reward = isinstance(objective, GroupPolicy) and objective.kl_in_reward
    return objective.updates > 1 or in_reward or isinstance(objective, ProximalPolicy)


def drops_equal(objective: PolicyObjective) -> bool:
    """Whether groups of equal rewards are left out."""
    return isinstance(objective, GroupPolicy) and objective.drops_equal


def first_kl_weight(objective: PolicyObjective) -> float:
    """The weight of the divergence in the rewards of the first roll-out."""
    return float(objective.options.kl.weight) if isinstance(objective, ProximalPolicy) else 0.0


def credit(objective: PolicyObjective, rewards: Tensor, measured: Measured, kl_weight: float) -> Credited:
    """Advantages of a roll-out; ``rewards`` is (P, G) with P * G = S, in the order of the answers."""
    if isinstance(objective, ProximalPolicy):
        return _of_tokens(objective, rewards, measured, kl_weight)
    assert isinstance(objective, GroupPolicy), f"{type(objective).__name__} gives no credit"
    lengths = torch.tensor(measured.lengths, dtype=torch.float32).view_as(rewards)
    divergence = measured.divergence if objective.kl_in_reward else None
    found = objective.credit(rewards, lengths, None if divergence is None else divergence.view_as(rewards))
    return Credited([bool(kept) for kept in found.kept], found.advantages.flatten())


def _of_tokens(objective: ProximalPolicy, rewards: Tensor, measured: Measured, kl_weight: float) -> Credited:
    assert measured.old is not None and measured.values is not None, "PPO measures both"
    tokens = ppo.Sampled(measured.old, measured.values, measured.lengths, measured.reference)
    found = objective.credit(rewards.flatten(), tokens, kl_weight)
    metrics, following = {"explained_variance": found.explained_variance}, kl_weight
    if measured.divergence is not None:
        metrics["kl_weight"] = kl_weight
        following = objective.next_kl(kl_weight, float(measured.divergence.mean()), rewards.numel())
    tracks = {"advantage": found.advantages, "return": found.returns, "value": measured.values}
    return Credited([True] * rewards.shape[0], None, tracks, metrics, following)
