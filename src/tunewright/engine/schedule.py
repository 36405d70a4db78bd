"""Learning rates: a pure function of the step, and the prior used when the recipe says ``auto``."""

from __future__ import annotations

import math
from typing import Literal

Kind = Literal["linear", "cosine", "constant"]

# Tuned rates of full fine-tuning fall roughly with the square root of the model's width.
FULL_RATE_AT_1024 = 1e-4


def auto_rate(hidden_size: int, times: float) -> float:
    """The stated prior: 1e-4 * sqrt(1024 / hidden size) for full training, and ``times`` that otherwise."""
    return FULL_RATE_AT_1024 * math.sqrt(1024 / hidden_size) * times


def rate_at(step: int, total: int, peak: float, kind: Kind, warmup: float) -> float:
    """Rate of the 1-based ``step``: linear warm-up over ``warmup`` (a share of ``total``), then the decay.

    Both decays end at zero one step after the last, so that the last step still learns.
    """
    warm = round(warmup * total)
    if step <= warm:
        return peak * step / max(1, warm)
    if kind == "constant":
        return peak
    done = (step - warm - 1) / max(1, total - warm)
    return peak * (1 - done if kind == "linear" else 0.5 * (1 + math.cos(math.pi * done)))
