"""Losses of heads that judge a whole sequence: pure functions of tensors, one table for each family.

Shapes: S sequences, K classes, A answers. Classification and regression losses give one value per sequence,
``plackett_luce`` one per answer; the objective adds them up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ClassLoss = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def single(scores: Tensor, labels: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of one class of K, with the meaning of ``torch.nn.functional.cross_entropy``.

    -(1 - e) w_y log p_y - (e / K) sum_c w_c log p_c, with p = softmax(scores) and e the smoothing
    (Szegedy et al. 2016, arXiv 1512.00567).
    ``scores`` (S, K), ``labels`` (S,) int64, ``weights`` (K,) -> (S,).
    """
    return F.cross_entropy(scores, labels, weights, label_smoothing=smoothing, reduction="none")


def multi(scores: Tensor, labels: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """Mean over K yes-or-no questions of their binary cross-entropy.

    -(1/K) sum_k [w_k t_k log s_k + (1 - t_k) log(1 - s_k)], with s = sigmoid(scores) and t = (1 - e) y + e/2
    for smoothing e. ``weights`` (K,) stand at the presence of a class, as ``pos_weight`` of torch does.
    ``scores`` and ``labels`` (S, K) -> (S,).
    """
    smooth = labels * (1 - smoothing) + smoothing / 2
    losses = F.binary_cross_entropy_with_logits(scores, smooth, pos_weight=weights, reduction="none")
    return losses.mean(dim=-1)


def ordinal_logprobs(scores: Tensor) -> Tensor:
    """log p of K ordered classes from K-1 scores, of which the k-th says log-odds of y > k given y >= k.

    P(y > k) = prod_{j <= k} sigmoid(f_j) falls with k whatever the scores are, so the ranks are consistent
    (CORN, Shi, Cao and Raschka 2021, arXiv 2111.08851; the continuation-ratio model of statistics).
    (S, K-1) -> (S, K), each row the logarithm of probabilities that sum to 1.
    """
    none = scores.new_zeros(len(scores), 1)
    reached = torch.cat([none, F.logsigmoid(scores).cumsum(dim=-1)], dim=-1)
    stopped = torch.cat([F.logsigmoid(-scores), none], dim=-1)
    return reached + stopped


def ordinal(scores: Tensor, labels: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of ordered classes under ``ordinal_logprobs``; weights and smoothing as in ``single``.

    This is the loss of CORN: the K-1 binary cross-entropies, each over the sequences that reach its question.
    ``scores`` (S, K-1), ``labels`` (S,) int64, ``weights`` (K,) -> (S,).
    """
    return single(ordinal_logprobs(scores), labels, weights, smoothing)  # log softmax leaves log p as it is


CLASS_LOSSES: dict[str, ClassLoss] = {"single": single, "multi": multi, "ordinal": ordinal}


def squared(scores: Tensor, targets: Tensor) -> Tensor:
    """(score - target)^2: (S,), (S,) -> (S,). Its best answer is the mean."""
    return (scores - targets).square()


def absolute(scores: Tensor, targets: Tensor) -> Tensor:
    """|score - target|: (S,), (S,) -> (S,). Its best answer is the median."""
    return (scores - targets).abs()


def huber(scores: Tensor, targets: Tensor) -> Tensor:
    """e^2 / 2 for an error |e| up to 1, |e| - 1/2 beyond (Huber 1964): (S,), (S,) -> (S,)."""
    return F.huber_loss(scores, targets, delta=1.0, reduction="none")


ERROR_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": squared,
    "absolute": absolute,
    "huber": huber,
}


def plackett_luce(rewards: Tensor, rank: Tensor, group: Tensor, margin: Tensor) -> Tensor:
    """Negative log-likelihood of rankings: the best answer is drawn first, then the next of those left.

    -log [exp r_i / sum_j exp r_j], j running over the answers of the same ``group`` that are not better than
    i (Plackett 1975, Luce 1959). Tied answers are each drawn from all that are not better, the others of the
    tie among them (the rule of Breslow 1974), so a tie pulls rewards together. ``margin`` is added to the
    reward of an answer wherever a better one is drawn.

    For two answers it is Bradley and Terry (1952): -log sigmoid(r_best - r_worst - margin).
    All arguments are (A,), rank 0 is best -> (A,); the sum over a group is the loss of its ranking.
    """
    lead = rewards - rewards[:, None] + margin * (rank > rank[:, None])
    left = (group == group[:, None]) & (rank >= rank[:, None])
    return lead.masked_fill(~left, -torch.inf).logsumexp(dim=-1)


def centring(rewards: Tensor, group: Tensor, groups: int) -> Tensor:
    """(sum of the rewards of a group)^2, which fixes the level that comparisons leave open: -> (groups,).

    Eisenstein et al. 2023, arXiv 2312.09244, who give the term for pairs. ``rewards`` and ``group`` are (A,).
    """
    return rewards.new_zeros(groups).index_add(0, group, rewards).square()
