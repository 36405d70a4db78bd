"""Distances between what a teacher and a student say next: one table of pure functions.

All take log-probabilities of the teacher and the student, (n, m) each, and give (n,); m is the vocabulary,
or the k + 1 outcomes that ``matched`` and ``ranked`` make of a teacher known by its k likeliest tokens only.
Teachers carry no gradient. P is the teacher, Q the student, both softened by temperature T:
P = softmax(teacher logits / T).

Temperature: the gradient of the KL family with respect to the logits shrinks like 1 / T^2 (Hinton et al.
2015, arXiv 1503.02531, section 2.1), so these losses are multiplied by T^2; the absolute distance shrinks
like 1 / T, so it is multiplied by T (``POWER``). The weight of the loss then hardly depends on T.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_NEVER = -1e30  # a log-probability of nothing that, unlike -inf, has differences and gradients


class TopK(NamedTuple):
    """What is known of a teacher's distribution over a vocabulary: its k likeliest tokens, likeliest first.

    ``logprobs`` (n, k) and ``rest`` (n,), the log of the mass of all other tokens, -inf where there is none.
    ``ids`` (n, k), or ``None`` where the tokens are not those of the student and only ranks can be compared.
    """

    logprobs: Tensor
    rest: Tensor
    ids: Tensor | None


def top_k(logprobs: Tensor, k: int) -> TopK:
    """The ``k`` likeliest of (n, V) log-probabilities, all of them where V <= k."""
    best = logprobs.topk(min(k, logprobs.shape[-1]), dim=-1)
    return TopK(best.values, _rest(logprobs, best.indices), best.indices)


def matched(teacher: TopK, student: Tensor) -> tuple[Tensor, Tensor]:
    """Teacher and student on the teacher's k tokens and, as one further outcome, all others: (n, k + 1) each.

    p = (p_1 … p_k, 1 - sum p_i), q = (q_1 … q_k, 1 - sum q_i) with the same tokens i. Merging outcomes never
    raises a KL divergence, so the result is a lower bound of the full one, and equal to it when k = V (the
    empty outcome is then left out).
    """
    ids = teacher.ids
    assert ids is not None, "a teacher of another vocabulary can be compared by ranks only"
    chosen = student.gather(-1, ids)
    if ids.shape[-1] == student.shape[-1]:
        return teacher.logprobs, chosen
    return _with_rest(teacher.logprobs, teacher.rest), _with_rest(chosen, _rest(student, ids))


def ranked(teacher: TopK, student: Tensor) -> tuple[Tensor, Tensor]:
    """Teacher and student by rank: the i-th likeliest token of one against the i-th of the other.

    The k likeliest and, as one further outcome, all others: (n, k + 1) each. Where a vocabulary is smaller
    than k the missing ranks have no mass. ``absolute`` of the two is the Universal Logit Distillation loss
    sum_i |p_(i) - q_(i)| when k reaches the larger vocabulary, and below it otherwise.
    """
    known = top_k(student, teacher.logprobs.shape[-1])
    missing = teacher.logprobs.shape[-1] - known.logprobs.shape[-1]
    padded = F.pad(known.logprobs, (0, missing), value=-math.inf)
    return _with_rest(teacher.logprobs, teacher.rest), _with_rest(padded, known.rest)


def forward_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(P || Q) = sum_i p_i (log p_i - log q_i). Hinton et al. 2015, arXiv 1503.02531."""
    return _kl(teacher, student)


def reverse_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(Q || P) = sum_i q_i (log q_i - log p_i). Gu et al. 2024, MiniLLM, arXiv 2306.08543."""
    return _kl(student, teacher)


def generalised_js(teacher: Tensor, student: Tensor, weight: float = 0.5) -> Tensor:
    """b KL(P || M) + (1 - b) KL(Q || M) with M = b P + (1 - b) Q and b = ``weight`` in (0, 1).

    Agarwal et al. 2024, GKD, arXiv 2306.13649, equation 1. Divided by b it tends to KL(P || Q) as b -> 0, and
    divided by 1 - b to KL(Q || P) as b -> 1.
    """
    teacher, student = teacher.clamp_min(_NEVER), student.clamp_min(_NEVER)
    mixture = torch.logaddexp(teacher + math.log(weight), student + math.log1p(-weight))
    return weight * _kl(teacher, mixture) + (1 - weight) * _kl(student, mixture)


def absolute(teacher: Tensor, student: Tensor) -> Tensor:
    """sum_i |p_i - q_i|, twice the total variation.

    On ``ranked`` distributions it is the Wasserstein-1 distance with uniform costs of Boizard et al. 2024,
    Universal Logit Distillation, arXiv 2402.12030.
    """
    return (teacher.exp() - student.exp()).abs().sum(-1)


DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "forward": forward_kl,
    "reverse": reverse_kl,
    "js": generalised_js,
    "uld": absolute,
}
POWER = {"forward": 2, "reverse": 2, "js": 2, "uld": 1}


def _kl(p: Tensor, q: Tensor) -> Tensor:
    # An outcome without mass adds nothing, even where the other side rules it out too (-inf minus -inf).
    return (p.exp() * (p - q).masked_fill(p == -math.inf, 0.0)).sum(-1)


def _rest(logprobs: Tensor, ids: Tensor) -> Tensor:
    """Log of the mass outside ``ids``, summed rather than subtracted from 1, so that it is exact if tiny."""
    if ids.shape[-1] == logprobs.shape[-1]:
        return torch.full_like(logprobs[..., 0], -math.inf)
    return logprobs.scatter(-1, ids, -math.inf).logsumexp(-1)


def _with_rest(logprobs: Tensor, rest: Tensor) -> Tensor:
    return torch.cat([logprobs, rest[..., None]], dim=-1)
