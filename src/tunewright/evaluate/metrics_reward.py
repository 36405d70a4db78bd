"""The rewards of answers as metrics: their weighted sum, and each of them by itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from tunewright.core.errors import ConfigError
from tunewright.evaluate.metrics import Array, Metric


def _as_given(name: str, predictions: Sequence[Any], references: Sequence[Any]) -> Array:
    if not all(isinstance(value, int | float) for value in predictions):
        raise ConfigError(
            f"metric {name!r} is the mean of rewards, which only objectives that learn from rewards have;"
            " choose another metric"
        )
    return np.array(predictions, dtype=np.float64)


def _metric(name: str, description: str) -> Metric:
    """``predictions`` are the rewards themselves, which have no unit; ``references`` are not read."""
    return Metric(name=name, description=description, score=partial(_as_given, name), unit=name, bounds=None)


reward = _metric("reward", "mean reward of the answers: the weighted sum of all rewards")


def part(name: str) -> Metric:
    """The mean of one reward, unweighted; ``reward:NAME``, as in ``reward:exact_match``."""
    return _metric(f"reward:{name}", f"mean of the reward {name!r} alone, unweighted")
