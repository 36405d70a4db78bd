"""How far the rewards of pairs can be trusted: accuracy, length bias, calibration.

All arrays hold one number per pair, (n,): the reward of the chosen and of the rejected answer, or their
length in tokens. Every function raises ``DataError`` for no pairs, unequal numbers of them, or a number that
is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from tunewright.core.errors import ConfigError, DataError
from tunewright.evaluate.metrics import Array
from tunewright.evaluate.ranks import mean_ranks

HALF = 0.5
Numbers = Sequence[float] | Array


def pair_scores(chosen: Numbers, rejected: Numbers) -> Array:
    """1 for each pair in the right order, 0 in the wrong one, 1/2 for equal rewards: (n,).

    Their mean is the pairwise accuracy; a bootstrap of the rows gives its interval.
    """
    better, worse = _checked(chosen, rejected)
    scores: Array = (better > worse) + HALF * (better == worse)
    return scores


class LengthBias(NamedTuple):
    """``correlation`` is ``None`` where one of the two never varies; an accuracy is, where it has no pairs.

    The accuracies are those of pairs whose chosen answer is the longer (the shorter) one. A model that only
    counts tokens has 1 and 0. ``longer`` and ``shorter`` are the numbers of such pairs; equal lengths are in
    neither.
    """

    correlation: float | None
    accuracy_longer: float | None
    accuracy_shorter: float | None
    longer: int
    shorter: int


def length_bias(
    chosen: Numbers, rejected: Numbers, chosen_lengths: Numbers, rejected_lengths: Numbers
) -> LengthBias:
    """Whether rewards follow length (Singhal et al. 2023, arXiv 2310.03716).

    ``correlation`` is Spearman's, between r_chosen - r_rejected and length_chosen - length_rejected.
    """
    better, worse, long, short = _checked(chosen, rejected, chosen_lengths, rejected_lengths)
    lead, extra = better - worse, long - short
    right = pair_scores(better, worse)
    return LengthBias(
        _correlation(mean_ranks(lead), mean_ranks(extra)),
        _mean(right[extra > 0]),
        _mean(right[extra < 0]),
        int((extra > 0).sum()),
        int((extra < 0).sum()),
    )


class Bin(NamedTuple):
    """``n`` pairs whose confidence lies in [low, high), the last bin's in [low, high]; means over them."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def reliability(chosen: Numbers, rejected: Numbers, bins: int = 10) -> list[Bin]:
    """Stated against observed confidence, in ``bins`` equal parts of [1/2, 1]; empty ones are left out.

    The confidence in the answer with the higher reward is sigmoid(|r_chosen - r_rejected|), the probability
    of Bradley and Terry (1952). Raises ``ConfigError`` for fewer than one bin.
    """
    if bins < 1:
        raise ConfigError(f"bins is {bins}; reliability needs at least 1")
    better, worse = _checked(chosen, rejected)
    confidence, right = expit(np.abs(better - worse)), pair_scores(better, worse)
    edges = np.linspace(HALF, 1.0, bins + 1)
    place = np.minimum(np.searchsorted(edges, confidence, side="right") - 1, bins - 1)
    return [
        Bin(
            float(edges[b]),
            float(edges[b + 1]),
            int((place == b).sum()),
            float(confidence[place == b].mean()),
            float(right[place == b].mean()),
        )
        for b in np.unique(place)
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the mean over pairs of |accuracy - confidence| of their bin.

    Guo et al. 2017, arXiv 1706.04599. Raises ``DataError`` for no bins.
    """
    if not bins:
        raise DataError("there is no pair to calibrate on; give at least one")
    return sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / sum(b.n for b in bins)


def _checked(*columns: Numbers) -> tuple[Array, ...]:
    arrays = tuple(np.asarray(column, dtype=np.float64) for column in columns)
    sizes = [len(array) for array in arrays]
    if len(set(sizes)) > 1 or not sizes[0]:
        raise DataError(f"pairs need as many of each, at least one; got {', '.join(map(str, sizes))}")
    for array in arrays:
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array))[0])
            raise DataError(f"pair {row + 1} has the value {array[row]}; rewards and lengths must be finite")
    return arrays


def _correlation(a: Array, b: Array) -> float | None:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None
