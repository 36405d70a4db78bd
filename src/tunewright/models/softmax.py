"""What attention and the output layer share: softmax in place, and a soft cap with its slope."""

from __future__ import annotations

import torch
from torch import Tensor


def softmax_(scores: Tensor) -> Tensor:
    """``scores`` (..., n) become their softmax; returns the log-sum-exp of every row."""
    top = scores.amax(-1)
    torch.softmax(scores, -1, out=scores)
    return top - scores.amax(-1).log_()  # the largest is 1 / the sum


def capped_(scores: Tensor, softcap: float | None) -> Tensor:
    """c tanh(s / c) in place of every score s, where there is a cap c."""
    return scores if softcap is None else scores.div_(softcap).tanh_().mul_(softcap)


def bend(capped: Tensor, softcap: float | None) -> Tensor | None:
    """The slope of the soft cap, from what it gave; None where there is none."""
    return None if softcap is None else 1 - (capped / softcap).square()
