"""Probabilities that mean what they say: one temperature, fitted to rows that were not trained on."""

from __future__ import annotations

import math

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from tunewright.objectives.head_losses import CLASS_LOSSES

WIDEST = 4.0  # the temperature stays within e^-4 and e^4


def best_temperature(scores: Tensor, labels: Tensor, kind: str) -> float:
    """The T > 0 for which scores / T have the highest likelihood (Guo et al. 2017, arXiv 1706.04599).

    log T has a standard normal prior, so that a handful of rows, all of them right, does not make the model
    certain of everything: minimises sum_i loss_i(scores / T) + (log T)^2 / 2, with the loss of ``kind`` in
    ``head_losses.CLASS_LOSSES``. ``scores`` (S, outputs), ``labels`` (S,) int64, for multi (S, K).
    """
    outputs = labels.shape[-1] if kind == "multi" else scores.shape[-1] + (kind == "ordinal")
    weights = torch.ones(outputs, dtype=scores.dtype)

    def cost(log_t: float) -> float:
        losses = CLASS_LOSSES[kind](scores / math.exp(log_t), labels.to(_form(scores, kind)), weights, 0.0)
        return float(losses.sum()) + log_t**2 / 2

    found = minimize_scalar(cost, bounds=(-WIDEST, WIDEST), method="bounded", options={"xatol": 1e-6})
    return math.exp(float(found.x))


def _form(scores: Tensor, kind: str) -> torch.dtype:
    return scores.dtype if kind == "multi" else torch.int64
