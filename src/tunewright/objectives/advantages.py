"""How rewards become advantages: baselines within a group or a roll-out, GAE, and penalties on rewards.

All are pure functions. P prompts with G answers each are (P, G); the tokens of S answers, laid end to end,
are (N,), with ``lengths`` (S,) that sum to N.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tunewright.core.errors import ConfigError

EPSILON = 1e-4  # added to a standard deviation, as in TRL 1.16; the GRPO paper has none
LOG_LIMIT = 20.0  # an exponent beyond it is cut, and gets no gradient: exp overflows float32 at 88

AdvantageRule = Callable[[Tensor], Tensor]
"""Rewards (P, G) -> advantages (P, G)."""


# --- baselines of groups


def centred(rewards: Tensor) -> Tensor:
    """A = R - mean of the group (Dr. GRPO; Liu et al. 2025, arXiv 2503.20783). ``ConfigError`` if G is 1."""
    _needs_two(rewards)
    return rewards - rewards.mean(1, keepdim=True)


def standardised(rewards: Tensor) -> Tensor:
    """A = (R - mean) / (std + 1e-4), both of the group (GRPO; Shao et al. 2024, arXiv 2402.03300).

    The deviation divides by G - 1, as in TRL 1.16. A group of equal rewards gets zeros. ``ConfigError`` if G
    is 1.
    """
    centre = centred(rewards)
    return centre / (rewards.std(1, keepdim=True) + EPSILON)


def leave_one_out(rewards: Tensor) -> Tensor:
    """A_i = R_i - mean of the other answers' rewards (RLOO; Ahmadian et al. 2024, arXiv 2402.14740).

    It is the centred reward times G / (G - 1). ``ConfigError`` if G is 1.
    """
    _needs_two(rewards)
    others = rewards.sum(1, keepdim=True) - rewards
    return rewards - others / (rewards.shape[1] - 1)


def batch_normalised(rewards: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the whole roll-out (REINFORCE++; Hu et al. 2025, arXiv 2501.03262).

    With several answers per prompt the mean of the group is taken off first, which is the paper's variant
    "with baseline"; with one it is the plain variant. ``ConfigError`` for a single answer in all.
    """
    if rewards.numel() < 2:
        raise ConfigError(
            "a roll-out of one answer has no spread to compare it with; sample more (rollout.prompts or"
            " rollout.group)"
        )
    return whitened(rewards - rewards.mean(1, keepdim=True) if rewards.shape[1] > 1 else rewards)


def equal_groups(rewards: Tensor) -> Tensor:
    """Which groups have equal rewards, and so nothing to compare: (P, G) -> (P,) bool.

    DAPO's dynamic sampling leaves them out (Yu et al. 2025, arXiv 2503.14476).
    """
    return (rewards.amax(1) - rewards.amin(1)) <= 1e-6 * rewards.abs().amax(1)


def _needs_two(rewards: Tensor) -> None:
    if rewards.shape[1] < 2:
        raise ConfigError(
            "a group of one answer has nothing to be compared with: set objective.rollout.group to at least 2"
            " (8 is usual), or take reinforce_pp or ppo"
        )


# --- penalties


def overlong_penalty(lengths: Tensor, limit: int, share: float) -> Tensor:
    """What to add to the rewards of answers of ``lengths`` tokens, between -1 and 0.

    0 up to the last ``share`` of ``limit``, from there in a straight line to -1 at ``limit``: the soft
    over-long punishment of DAPO (Yu et al. 2025, arXiv 2503.14476).
    """
    buffer = share * limit
    if buffer == 0:
        return torch.zeros_like(lengths, dtype=torch.float32)
    return ((limit - buffer - lengths) / buffer).clamp(-1.0, 0.0)


def k1(log_ratio: Tensor) -> Tensor:
    """log p - log q per token sampled from p: the mean is KL(p, q), single values may be negative.

    This and the next two: Schulman 2020, "Approximating KL divergence"; ``log_ratio`` = log p - log q.
    """
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """(log p - log q)^2 / 2: biased, low variance; its gradient, averaged over p, is that of KL(p, q)."""
    return log_ratio.square() / 2


def k3(log_ratio: Tensor) -> Tensor:
    """q / p - 1 - log(q / p): the mean is KL(p, q), and no value is negative."""
    return (-log_ratio).clamp(-LOG_LIMIT, LOG_LIMIT).exp() - 1 + log_ratio


def penalised(rewards: Tensor, log_ratio: Tensor, lengths: Sequence[int], weight: float) -> Tensor:
    """Reward of each token: -weight * (log p - log reference), and the answer's own at its last token: (N,).

    ``rewards`` (S,), ``log_ratio`` (N,). Ziegler et al. 2019 (arXiv 1909.08593), with k1 as the estimate.
    """
    ends = torch.tensor(lengths, device=log_ratio.device).cumsum(0) - 1
    return (-weight * k1(log_ratio)).index_add(0, ends, rewards.to(log_ratio.dtype))


def adapted(weight: float, observed: float, target: float, answers_per_horizon: float) -> float:
    """The next KL weight: weight * (1 + e * answers / horizon), e = (observed / target - 1) cut to ±0.2.

    Ziegler et al. 2019 (arXiv 1909.08593, section 2.2). ``observed`` and ``target`` are nats per answer;
    ``answers_per_horizon`` is the number of answers just seen over the horizon.
    """
    error = min(max(observed / target - 1.0, -0.2), 0.2)
    return weight * (1.0 + error * answers_per_horizon)


# --- tokens


def gae(
    rewards: Tensor, values: Tensor, lengths: Sequence[int], gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns of each token, (N,) both.

    delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lam A_{t+1}, return_t = A_t + V_t; nothing
    follows the last token of an answer, also of one cut short (Schulman et al. 2016, arXiv 1506.02438).
    """
    reward, value = _padded(rewards, lengths), _padded(values, lengths)
    advantages = torch.zeros_like(value)
    following = value.new_zeros(value.shape[0], 2)  # V and A of the token after, 0 beyond the end
    for t in reversed(range(value.shape[1])):
        delta = reward[:, t] + gamma * following[:, 0] - value[:, t]
        advantages[:, t] = delta + gamma * lam * following[:, 1]
        following = torch.stack([value[:, t], advantages[:, t]], 1)
    inside = (
        torch.arange(value.shape[1], device=values.device)
        < torch.tensor(lengths, device=values.device)[:, None]
    )
    flat = advantages[inside]
    return flat, flat + values


def _padded(values: Tensor, lengths: Sequence[int]) -> Tensor:
    """(N,) -> (S, longest), zeros behind the shorter answers: they add nothing to what stands before them."""
    return pad_sequence(list(values.split(list(lengths))), batch_first=True)


def whitened(values: Tensor, *, centre: bool = True) -> Tensor:
    """Variance 1 over all ``values``, and mean 0 unless ``centre`` is false: (x - mean) / sqrt(var + 1e-8).

    The variance divides by one less than their number, as in TRL's former PPO trainer.
    """
    mean = values.mean()
    scaled = (values - mean) * (values.var() + 1e-8).rsqrt()
    return scaled if centre else scaled + mean


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - var(returns - values) / var(returns): 1 for a perfect value head, at most 0 for a useless one.

    Returns that are all equal have no variance to explain: 0.
    """
    spread = float(returns.var(correction=0))
    return 1.0 - float((returns - values).var(correction=0)) / spread if spread > 0 else 0.0
