"""How far the rewards of a reward model can be trusted: order, calibration, and taste for length.

A row is one prompt with answers of known order. Its ordered pairs share a weight of 1, so that a ranking of
many answers counts as much as a pair. ``evaluate.pairs`` has the same numbers for plain pairs.

Shapes: n rows, m ordered pairs in all, b bins, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from tunewright.core.errors import DataError
from tunewright.evaluate.metrics import Array, Metric
from tunewright.evaluate.pairs import pair_scores
from tunewright.evaluate.ranks import mean_ranks

BINS = 10
HALF = 0.5
Scores = Sequence[float]


class Rated(NamedTuple):
    """What is said of the answers of a row: their rewards, and their lengths in tokens."""

    rewards: Sequence[float]
    lengths: Sequence[int]


class Flat(NamedTuple):
    """The ordered pairs of all rows, (m,): row, weight, the two rewards, and better less worse in length."""

    row: Array
    weight: Array
    better: Array
    worse: Array
    extra: Array

    @property
    def right(self) -> Array:
        """1 in the right order, 0 in the wrong one, 1/2 for equal rewards."""
        return pair_scores(self.better, self.worse)


def ordered(scores: Scores) -> list[tuple[int, int]]:
    """(better, worse) for every two answers of unequal score; a higher score is better."""
    return [(i, j) for i, j in permutations(range(len(scores)), 2) if scores[i] > scores[j]]


def flat(predictions: Sequence[Rated], references: Sequence[Scores]) -> Flat:
    """The pairs of all rows, in order. Raises ``DataError`` for a row that has none."""
    found: list[tuple[float, ...]] = []
    for row, (rated, scores) in enumerate(zip(predictions, references, strict=True)):
        pairs = ordered(scores)
        if not pairs:
            raise DataError(
                f"row {row + 1}: no answer is better than another, so there is nothing to compare"
            )
        r, n = rated
        found += [(row, 1 / len(pairs), r[i], r[j], n[i] - n[j]) for i, j in pairs]
    return Flat(*np.array(found, dtype=np.float64).T)


def _per_row(pairs: Flat, values: Array) -> Array:
    """The weighted sum of ``values`` (m,) over the pairs of each row: (n,)."""
    totals = np.bincount(pairs.row.astype(np.int64), weights=pairs.weight * values)
    return totals.astype(np.float64)


def _in_order(predictions: Sequence[Rated], references: Sequence[Scores]) -> Array:
    pairs = flat(predictions, references)
    return _per_row(pairs, pairs.right)


def _binned(predictions: Sequence[Rated], references: Sequence[Scores]) -> Array:
    """(n, b): confidence less rightness of the pairs, in the column of the bin of the confidence."""
    pairs = flat(predictions, references)
    confidence = expit(np.abs(pairs.better - pairs.worse))
    edges = np.linspace(HALF, 1.0, BINS + 1)
    place = np.minimum(np.searchsorted(edges, confidence, side="right") - 1, BINS - 1)
    return np.column_stack([_per_row(pairs, (confidence - pairs.right) * (place == b)) for b in range(BINS)])


def _gap(sums: Array, sizes: Array) -> Array:
    found: Array = np.abs(sums).sum(axis=1) / sizes
    return found


def _shorter(predictions: Sequence[Rated], references: Sequence[Scores]) -> Array:
    """(n, 2): over the pairs whose better answer is the shorter one, how many are in order, and how many."""
    pairs = flat(predictions, references)
    short = pairs.extra < 0
    if not short.any():
        raise DataError("shorter_accuracy: in no pair is the better answer the shorter one; leave it out")
    return np.column_stack([_per_row(pairs, v) for v in (pairs.right * short, short.astype(np.float64))])


def _ratio(sums: Array, sizes: Array) -> Array:
    """A sample without such a pair tells nothing: one half."""
    right, pairs = sums.T
    found: Array = np.divide(right, pairs, out=np.full_like(right, HALF), where=pairs > 0)
    return found


def _moments(predictions: Sequence[Rated], references: Sequence[Scores]) -> Array:
    """(n, 6): 1, x, y, x^2, y^2, xy; x and y are the ranks of the differences in reward and in length."""
    pairs = flat(predictions, references)
    x, y = (_centred(mean_ranks(v)) for v in (pairs.better - pairs.worse, pairs.extra))
    return np.column_stack([_per_row(pairs, v) for v in (np.ones_like(x), x, y, x * x, y * y, x * y)])


def _centred(ranks: Array) -> Array:
    """Ranks within [-1/2, 1/2], so that their squares keep their digits."""
    return (ranks - (len(ranks) + 1) / 2) / len(ranks)


def _correlation(sums: Array, sizes: Array) -> Array:
    """Pearson's, of ranks; 0 where one of the two never varies."""
    n, x, y, xx, yy, xy = sums.T
    spread = np.clip(n * xx - x * x, 0, None) * np.clip(n * yy - y * y, 0, None)
    varies = spread > 1e-12 * np.maximum(n, 1e-300) ** 4
    found: Array = np.where(varies, (n * xy - x * y) / np.sqrt(np.where(varies, spread, 1.0)), 0.0)
    return found


pair_accuracy = Metric(
    name="pair_accuracy",
    description="share of pairs of answers that the rewards put in the right order; a tie counts half, and"
    " the pairs of one ranking count as one row",
    score=_in_order,
    needs="head",
)
pair_calibration = Metric(
    name="pair_calibration",
    description="mean gap between how sure the rewards are of a pair (logistic function of their difference)"
    f" and how often they are right, in {BINS} bins (expected calibration error)",
    score=_binned,
    finish=_gap,
    higher_is_better=False,
    needs="head",
    signature=f"bins:{BINS}",
)
shorter_accuracy = Metric(
    name="shorter_accuracy",
    description="accuracy on the pairs whose better answer is the shorter one; who only counts tokens has 0",
    score=_shorter,
    finish=_ratio,
    needs="head",
)
length_correlation = Metric(
    name="length_correlation",
    description="rank correlation of the difference in reward with the difference in length; who only counts"
    " tokens has 1, and 0 is no taste for length at all",
    score=_moments,
    finish=_correlation,
    higher_is_better=False,
    needs="head",
    unit="length_correlation",
    bounds=(-1.0, 1.0),
    signature="spearman",
)
