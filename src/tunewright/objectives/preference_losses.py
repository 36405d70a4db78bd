"""Every loss on pairs of answers, as one table of pure functions of tensors.

Notation: y+ and y- are the chosen and the rejected answer to x, |y| their lengths in tokens, p the model's
probability and q the reference's. r(y) = log p(y|x) - log q(y|x), so r is how far the model has moved. ``s``
is the logistic function. All tensors are (P,), one entry per pair, and so are the losses.

Keyword arguments are the settings of a loss, and their defaults those of its paper; see
``objectives.options``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

Basis = Literal["ratio", "mean_ratio", "logp", "mean_logp"]
_NEARLY_ONE = -1e-7  # log of the highest probability that still has finite odds in float32


@dataclass(frozen=True, slots=True)
class Pairs:
    """Log-probabilities of the answers of P pairs, summed over their tokens, and their lengths in tokens.

    ``reference_chosen`` and ``reference_rejected`` are not read by losses without a reference, ``alignment``,
    w(y+) w(y-), by ``wpo`` alone.
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_length: Tensor
    rejected_length: Tensor
    alignment: Tensor | None = None

    @property
    def lead(self) -> Tensor:
        """r(y+) - r(y-)."""
        better, worse = measured(self, "ratio")
        return better - worse


def measured(pairs: Pairs, basis: Basis) -> tuple[Tensor, Tensor]:
    """What a loss compares, for the chosen and the rejected answers.

    ``ratio`` r(y), ``mean_ratio`` r(y) / |y|, ``logp`` log p(y), ``mean_logp`` log p(y) / |y|.
    """
    chosen, rejected = pairs.chosen, pairs.rejected
    if basis.endswith("ratio"):
        chosen, rejected = chosen - pairs.reference_chosen, rejected - pairs.reference_rejected
    if basis.startswith("mean"):
        chosen, rejected = chosen / pairs.chosen_length, rejected / pairs.rejected_length
    return chosen, rejected


def dpo(
    pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0, margin: Tensor | None = None
) -> Tensor:
    """-(1-e) log s(z) - e log s(-z), with z = beta (r(y+) - r(y-)) - margin.

    Rafailov et al. 2023, arXiv 2305.18290. With e = ``label_smoothing`` > 0 it is the conservative DPO of
    Mitchell 2023 (a note on noisy preferences), with a ``margin`` the ODPO of Amini et al. 2024, arXiv
    2402.10571.
    """
    return _logistic(_with_margin(beta * pairs.lead, margin), label_smoothing)


def robust_dpo(
    pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.1, margin: Tensor | None = None
) -> Tensor:
    """(-(1-e) log s(z) + e log s(-z)) / (1 - 2e): on average the loss of clean labels, if a share e is false.

    Chowdhury, Kini and Natarajan 2024, arXiv 2403.00409. The share must be known from the data; 0.1 is our
    default, TRL's is 0, at which this is plain DPO.
    """
    z = _with_margin(beta * pairs.lead, margin)
    e = label_smoothing
    return (-(1 - e) * logsigmoid(z) + e * logsigmoid(-z)) / (1 - 2 * e)


def length_dpo(
    pairs: Pairs, *, beta: float = 5.0, label_smoothing: float = 0.0, margin: Tensor | None = None
) -> Tensor:
    """DPO with z = beta (r(y+) / |y+| - r(y-) / |y-|), so that length wins nothing.

    The length-normalised DPO of Tülu 3, Lambert et al. 2024, arXiv 2411.15124, which has beta = 5.
    """
    better, worse = measured(pairs, "mean_ratio")
    return _logistic(_with_margin(beta * (better - worse), margin), label_smoothing)


def wpo(
    pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0, margin: Tensor | None = None
) -> Tensor:
    """w(y+) w(y-) times DPO, so that pairs count as much as the model would write them.

    w(y) = exp(mean_t [log p(y_t) - log sum_v p(v)^2]), a constant in the gradient, is ``Pairs.alignment`` as
    a product. Zhou et al. 2024, arXiv 2406.11827.
    """
    assert pairs.alignment is not None, "wpo needs the alignment of the pairs"
    losses = dpo(pairs, beta=beta, label_smoothing=label_smoothing, margin=margin)
    return pairs.alignment.detach() * losses


def hinge(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """max(0, 1 - beta (r(y+) - r(y-))).

    The hinge of Liu et al. 2023 (RSO), arXiv 2309.06657, who normalise SLiC by the reference.
    """
    return relu(1 - beta * pairs.lead)


def apo_zero(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """(1 - s(beta r(y+))) + s(beta r(y-)): chosen answers become likelier, rejected ones less likely.

    D'Oosterlinck et al. 2024, arXiv 2408.06266; for chosen answers better than what the model writes.
    """
    better, worse = measured(pairs, "ratio")
    return torch.sigmoid(-beta * better) + torch.sigmoid(beta * worse)


def apo_down(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """s(beta r(y+)) + (1 - s(beta (r(y+) - r(y-)))): both become less likely, the rejected one more so.

    D'Oosterlinck et al. 2024, arXiv 2408.06266; for chosen answers worse than what the model writes.
    """
    better, worse = measured(pairs, "ratio")
    return torch.sigmoid(beta * better) + torch.sigmoid(-beta * (better - worse))


def ipo(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """(r(y+) / |y+| - r(y-) / |y-| - 1 / (2 beta))^2, which has a finite optimum even for certain labels.

    Azar et al. 2023, arXiv 2310.12036. The paper writes sums over tokens; as in TRL they are means here, so
    that one beta suits answers of any length.
    """
    better, worse = measured(pairs, "mean_ratio")
    return (better - worse - 1 / (2 * beta)).square()


def slic(pairs: Pairs, *, delta: float = 1.0) -> Tensor:
    """max(0, delta - log p(y+) + log p(y-)), beside the term -log p(y+) / |y+|.

    Zhao et al. 2023 (SLiC-HF), arXiv 2305.10425; the defaults of delta and of the second weight are ours.
    """
    return relu(delta - (pairs.chosen - pairs.rejected))


def simpo(pairs: Pairs, *, beta: float = 2.0, gamma: float = 1.0) -> Tensor:
    """-log s(beta (log p(y+) / |y+| - log p(y-) / |y-|) - gamma).

    Meng, Xia and Chen 2024, arXiv 2405.14734, who advise beta from 2 and gamma about half of it. TRL's
    defaults are beta 0.1 and gamma 0.5.
    """
    better, worse = measured(pairs, "mean_logp")
    return -logsigmoid(beta * (better - worse) - gamma)


def cpo(pairs: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """-(1-e) log s(z) - e log s(-z), with z = beta (log p(y+) - log p(y-)), beside -log p(y+) / |y+|.

    Xu et al. 2024, arXiv 2401.08417.
    """
    return _logistic(beta * (pairs.chosen - pairs.rejected), label_smoothing)


def orpo(pairs: Pairs, *, beta: float = 0.1) -> Tensor:
    """-beta log s(log odds(y+) - log odds(y-)), beside -log p(y+) / |y+|.

    odds(y) = P / (1 - P) with P = p(y)^(1/|y|). Hong, Lee and Thorne 2024, arXiv 2403.07691; beta is their
    lambda. TRL takes the second term over prompt and answer, this table over the answer, as the paper does.
    """
    better, worse = measured(pairs, "mean_logp")
    return -beta * logsigmoid(_log_odds(better) - _log_odds(worse))


def nll(pairs: Pairs) -> Tensor:
    """-log p(y+) / |y+|, the supervised term."""
    return -pairs.chosen / pairs.chosen_length


@dataclass(frozen=True)
class PairLoss:
    """A row of the table.

    The loss is ``compare`` + ``sft_weight`` * ``nll``. ``basis`` is what it compares, and thereby the reward
    that it implies for an answer; those with a ratio in it need a reference. ``aligned`` losses read
    ``Pairs.alignment``.
    """

    compare: Callable[..., Tensor]
    basis: Basis
    sft_weight: float = 0.0
    aligned: bool = False

    def __call__(self, pairs: Pairs, *, sft_weight: float | None = None, **options: object) -> Tensor:
        """The losses, (P,)."""
        weight = self.sft_weight if sft_weight is None else sft_weight
        losses = self.compare(pairs, **options)
        return losses + weight * nll(pairs) if weight else losses

    @property
    def reads(self) -> frozenset[str]:
        """Names of the settings that change this loss."""
        return frozenset({"sft_weight", *list(inspect.signature(self.compare).parameters)[1:]})

    @property
    def scale(self) -> float:
        """What the implied reward is multiplied with unless set: the default of ``beta``; 1 without one."""
        found = inspect.signature(self.compare).parameters.get("beta")
        return 1.0 if found is None else float(found.default)

    @property
    def needs_reference(self) -> bool:
        """Whether log-probabilities of a reference are compared with."""
        return self.basis.endswith("ratio")


# Iterative RPO (Pang et al. 2024, arXiv 2404.19733) is DPO with the supervised term, both of weight 1.
PREFERENCE_LOSSES: dict[str, PairLoss] = {
    "dpo": PairLoss(dpo, "ratio"),
    "robust_dpo": PairLoss(robust_dpo, "ratio"),
    "length_dpo": PairLoss(length_dpo, "mean_ratio"),
    "wpo": PairLoss(wpo, "ratio", aligned=True),
    "rpo": PairLoss(dpo, "ratio", sft_weight=1.0),
    "hinge": PairLoss(hinge, "ratio"),
    "apo_zero": PairLoss(apo_zero, "ratio"),
    "apo_down": PairLoss(apo_down, "ratio"),
    "ipo": PairLoss(ipo, "mean_ratio"),
    "slic": PairLoss(slic, "logp", sft_weight=1.0),
    "simpo": PairLoss(simpo, "mean_logp"),
    "cpo": PairLoss(cpo, "logp", sft_weight=1.0),
    "orpo": PairLoss(orpo, "mean_logp", sft_weight=1.0),
}


def kto(
    ratios: Tensor,
    kl: Tensor,
    liked: Tensor,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """w+ (1 - s(beta (r(y) - z))) for liked answers, w- (1 - s(beta (z - r(y)))) for others; all are (R,).

    z = max(0, ``kl``) is how far the model has moved on answers that have nothing to do with the prompt; it
    is a constant in the gradient. Ethayarajh et al. 2024, arXiv 2402.01306.
    """
    gain = beta * (ratios - kl.detach().clamp(min=0))
    return torch.where(
        liked, desirable_weight * torch.sigmoid(-gain), undesirable_weight * torch.sigmoid(gain)
    )


def _logistic(z: Tensor, label_smoothing: float) -> Tensor:
    return -(1 - label_smoothing) * logsigmoid(z) - label_smoothing * logsigmoid(-z)


def _with_margin(z: Tensor, margin: Tensor | None) -> Tensor:
    return z if margin is None else z - margin


def _log_odds(mean_logp: Tensor) -> Tensor:
    """log(P / (1 - P)) of P = exp(``mean_logp``); log(1 - P) in the form that keeps most digits."""
    x = mean_logp.clamp(max=_NEARLY_ONE)
    rest = torch.where(x > -0.6931, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
    return x - rest
