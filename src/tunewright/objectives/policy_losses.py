"""Every policy loss as one row of a table of pure functions of tensors.

A row says how rewards become advantages, over what the probability ratio is taken, what is minimised per
token, how tokens are added up, and how the divergence from a reference counts. The loss of a step is

    sum over tokens of share_t * (importance_t * surrogate_t + kl * divergence_t)   /   count,

where ``share`` depends on the token's own answer alone and ``count`` is a plain number of tokens or answers.
So the gradient does not depend on how a step is cut into micro-batches.

N tokens of S segments; everything is (N,) and in the format of the log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tunewright.objectives.advantages import (
    LOG_LIMIT,
    AdvantageRule,
    batch_normalised,
    centred,
    k2,
    k3,
    leave_one_out,
    standardised,
)


class Answers(NamedTuple):
    """The sampled tokens of a batch.

    ``logprobs`` carry the gradient; ``old`` are those of the policy at the time of the roll-out. A token has
    its answer's advantage, or one of its own; ``segment`` is the index of its answer, below ``segments``.
    """

    logprobs: Tensor
    old: Tensor
    advantages: Tensor
    weights: Tensor
    segment: Tensor
    segments: int


class Clip(NamedTuple):
    """The range of the probability ratio, from 1 - ``low`` to 1 + ``high``."""

    low: float
    high: float


# --- the ratio r = p_new / p_old


def token_ratio(answers: Answers) -> Tensor:
    """r_t = p(token) / p_old(token)."""
    return _exp(answers.logprobs - answers.old)


def answer_ratio(answers: Answers) -> Tensor:
    """r = p(answer) / p_old(answer), the same for all its tokens (RLOO)."""
    return _exp(_answer_sum((answers.logprobs - answers.old) * answers.weights, answers))


def mean_ratio(answers: Answers) -> Tensor:
    """s = (p(answer) / p_old(answer))^(1 / length), the same for all its tokens (GSPO)."""
    total = _answer_sum((answers.logprobs - answers.old) * answers.weights, answers)
    return _exp(total / _answer_sum(answers.weights, answers))


def _exp(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-LOG_LIMIT, LOG_LIMIT).exp()


def _answer_sum(values: Tensor, answers: Answers) -> Tensor:
    """The sum over each answer, at each of its tokens."""
    return values.new_zeros(answers.segments).index_add(0, answers.segment, values)[answers.segment]


# --- what is minimised per token


def clipped(ratio: Tensor, answers: Answers, clip: Clip) -> Tensor:
    """-min(r A, clip(r, 1 - low, 1 + high) A) (PPO; Schulman et al. 2017, arXiv 1707.06347)."""
    bounded = ratio.clamp(1 - clip.low, 1 + clip.high)
    return -torch.minimum(ratio * answers.advantages, bounded * answers.advantages)


def capped_weight(ratio: Tensor, answers: Answers, clip: Clip) -> Tensor:
    """-stop_gradient(clip(r, 1 - low, 1 + high)) A log p: no token loses its gradient (CISPO)."""
    return -ratio.detach().clamp(1 - clip.low, 1 + clip.high) * answers.advantages * answers.logprobs


def out_of_range(ratio: Tensor, answers: Answers, clip: Clip) -> Tensor:
    """1 where the ratio has left the range on the side that the advantage pulls to, else 0."""
    low = (ratio < 1 - clip.low) & (answers.advantages < 0)
    high = (ratio > 1 + clip.high) & (answers.advantages > 0)
    return (low | high).to(ratio.dtype)


# --- how tokens are added up; the count that the sum is divided by stands beside it in the table


def token_share(answers: Answers, limit: int) -> Tensor:
    """Every token alike: the mean over all tokens of the step. Count: tokens."""
    return answers.weights


def answer_share(answers: Answers, limit: int) -> Tensor:
    """1 / length: the mean over the tokens of each answer, then over answers. Count: answers."""
    return answers.weights / _answer_sum(answers.weights, answers)


def constant_share(answers: Answers, limit: int) -> Tensor:
    """1 / ``limit`` (the longest answer allowed), whatever the length. Count: answers."""
    return answers.weights / limit


# --- the divergence from the reference; ``log_ratio`` = log p - log p_reference


def weighted_k3(log_ratio: Tensor, ratio: Tensor) -> Tensor:
    """r * k3, unbiased in value and gradient also off-policy (DeepSeek-AI 2025, arXiv 2512.02556).

    TRL 1.16 has it by default; the GRPO paper has k3 alone, whose gradient is that of KL(reference, p).
    """
    return ratio * k3(log_ratio)


def plain_k2(log_ratio: Tensor, ratio: Tensor) -> Tensor:
    """k2 alone (REINFORCE++ with baseline)."""
    return k2(log_ratio)


class PolicyLoss(NamedTuple):
    """One method. ``divergence`` None: the KL of the whole answer (k1) is taken off its reward instead."""

    advantages: AdvantageRule
    ratio: Callable[[Answers], Tensor]
    surrogate: Callable[[Tensor, Answers, Clip], Tensor]
    share: Callable[[Answers, int], Tensor]
    counts: Literal["tokens", "answers"]
    divergence: Callable[[Tensor, Tensor], Tensor] | None


POLICY_LOSSES: dict[str, PolicyLoss] = {
    # Shao et al. 2024, arXiv 2402.03300
    "grpo": PolicyLoss(standardised, token_ratio, clipped, answer_share, "answers", weighted_k3),
    # Liu et al. 2025, arXiv 2503.20783; divided by the longest answer allowed, as in TRL
    "dr_grpo": PolicyLoss(centred, token_ratio, clipped, constant_share, "answers", weighted_k3),
    # Ahmadian et al. 2024, arXiv 2402.14740; clipped over whole answers, as in TRL, for several updates
    "rloo": PolicyLoss(leave_one_out, answer_ratio, clipped, answer_share, "answers", None),
    # Hu et al. 2025, arXiv 2501.03262
    "reinforce_pp": PolicyLoss(batch_normalised, token_ratio, clipped, token_share, "tokens", plain_k2),
    # Yu et al. 2025, arXiv 2503.14476; a wider upper bound, no group of equal rewards, a penalty on length
    "dapo": PolicyLoss(standardised, token_ratio, clipped, token_share, "tokens", weighted_k3),
    # Zheng et al. 2025, arXiv 2507.18071
    "gspo": PolicyLoss(standardised, mean_ratio, clipped, answer_share, "answers", weighted_k3),
    # MiniMax 2025, arXiv 2506.13585
    "cispo": PolicyLoss(standardised, token_ratio, capped_weight, token_share, "tokens", weighted_k3),
}


# --- shared by all


def importance(old: Tensor, sampled: Tensor, cap: float) -> Tensor:
    """min(p_trainer / p_sampler, cap) per token: truncated importance sampling, without gradient.

    Yao et al. 2025, "On the rollout-training mismatch in modern RL systems".
    """
    return _exp(old - sampled).clamp(max=cap).detach()


def clipped_value(values: Tensor, old: Tensor, returns: Tensor, width: float) -> Tensor:
    """max((V - R)^2, (V_old + clip(V - V_old, ±width) - R)^2) / 2 per token, as in OpenAI's PPO2 and TRL."""
    near = old + (values - old).clamp(-width, width)
    return torch.maximum((values - returns).square(), (near - returns).square()) / 2
