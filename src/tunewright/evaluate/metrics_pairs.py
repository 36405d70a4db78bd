"""What a model makes of answers that people have judged: pairs of a chosen and a rejected one, liked and not.

r(y) = log p(y) - log q(y) is how far a model has moved on an answer y, p its probability and q that of the
untouched model (nats, summed over the answer). It is the reward that DPO implies, without its factor beta,
and 0 for the untouched model itself.

Shapes: n rows, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from tunewright.evaluate.metrics import Array, Metric
from tunewright.evaluate.pairs import pair_scores
from tunewright.evaluate.ranks import places

HALF = 0.5


class Likelihood(NamedTuple):
    """log p of an answer under the model and under the untouched one (nats), and its length in tokens."""

    logp: float
    untouched: float
    tokens: float

    @property
    def per_token(self) -> float:
        """log p per token."""
        return self.logp / self.tokens

    @property
    def gain(self) -> float:
        """r: how much likelier the answer has become."""
        return self.logp - self.untouched


class Pair(NamedTuple):
    """What a model makes of the two answers of a pair."""

    chosen: Likelihood
    rejected: Likelihood

    @property
    def margin(self) -> float:
        """r(chosen) - r(rejected), in nats."""
        return self.chosen.gain - self.rejected.gain


def _prefers(predictions: Sequence[Pair], references: Sequence[str]) -> Array:
    return pair_scores([p.chosen.per_token for p in predictions], [p.rejected.per_token for p in predictions])


def _moved(predictions: Sequence[Pair], references: Sequence[str]) -> Array:
    return pair_scores([p.chosen.gain for p in predictions], [p.rejected.gain for p in predictions])


def _margins(predictions: Sequence[Pair], references: Sequence[str]) -> Array:
    return np.array([p.margin for p in predictions], dtype=np.float64)


def _ranked(values: Sequence[float], liked: Sequence[bool]) -> Array:
    """(n, 2): the place of each value, from 0, equal ones sharing one; and whether the answer is liked."""
    return np.column_stack([places(values), np.asarray(liked, dtype=np.float64)])


def _likely(predictions: Sequence[Likelihood], references: Sequence[bool]) -> Array:
    return _ranked([p.per_token for p in predictions], references)


def _gained(predictions: Sequence[Likelihood], references: Sequence[bool]) -> Array:
    return _ranked([p.gain for p in predictions], references)


def _by_place(rows: Array) -> csr_array:
    """(n, 2n): for each place one column of disliked and one of liked answers."""
    places, liked = rows.astype(np.int64).T
    n = len(rows)
    return csr_array((np.ones(n), (np.arange(n), places + n * liked)), shape=(n, 2 * n))


def _auc(sums: Array, sizes: Array) -> Array:
    """sum over pairs of (liked above disliked) + half of (equal), by the number of pairs.

    Where there are answers of one sort only, they are compared with one of the other in every place.
    """
    disliked, liked = np.split(sums, 2, axis=1)
    lacks = [side.sum(axis=1, keepdims=True) == 0 for side in (disliked, liked)]
    disliked, liked = (np.where(no, 1.0, side) for no, side in zip(lacks, (disliked, liked), strict=True))
    below = np.cumsum(disliked, axis=1) - HALF * disliked
    found: Array = (liked * below).sum(axis=1) / (liked.sum(axis=1) * disliked.sum(axis=1))
    return found


def _lead(predictions: Sequence[Likelihood], references: Sequence[bool]) -> Array:
    """(n, 2): r, and whether the answer is liked."""
    return np.column_stack([[p.gain for p in predictions], references]).astype(np.float64)


def _by_side(rows: Array) -> Array:
    """(n, 4): r of liked answers, how many, r of disliked ones, how many."""
    gain, liked = rows.T
    return np.column_stack([gain * liked, liked, gain * (1 - liked), 1 - liked])


def _between(sums: Array, sizes: Array) -> Array:
    """The mean over liked answers less the mean over disliked ones; 0 stands for a mean over none."""
    liked, yes, disliked, no = sums.T
    better, worse = (
        np.divide(total, count, out=np.zeros_like(total), where=count > 0)
        for total, count in ((liked, yes), (disliked, no))
    )
    found: Array = better - worse
    return found


prefers_chosen = Metric(
    name="prefers_chosen",
    description="share of pairs whose chosen answer is the likelier one, by log-likelihood per token",
    score=_prefers,
    needs="pairs",
)
reward_accuracy = Metric(
    name="reward_accuracy",
    description="share of pairs whose chosen answer has gained more log-likelihood over the untouched model"
    " than the rejected one; the untouched model itself has 50 % by definition",
    score=_moved,
    needs="pairs",
)
reward_margin = Metric(
    name="reward_margin",
    description="by how much more log-likelihood the chosen answer has gained over the untouched model than"
    " the rejected one, in nats per pair; the untouched model itself has 0 by definition",
    score=_margins,
    needs="pairs",
    unit="nats",
    bounds=None,
)
liked_auc = Metric(
    name="liked_auc",
    description="chance that a liked answer is likelier than a disliked one, by log-likelihood per token",
    score=_likely,
    spread=_by_place,
    finish=_auc,
    needs="pairs",
)
reward_auc = Metric(
    name="reward_auc",
    description="chance that a liked answer has gained more log-likelihood over the untouched model than a"
    " disliked one; the untouched model itself has 50 % by definition",
    score=_gained,
    spread=_by_place,
    finish=_auc,
    needs="pairs",
)
liked_margin = Metric(
    name="liked_margin",
    description="by how much more log-likelihood liked answers have gained over the untouched model than"
    " disliked ones, in nats per answer; the untouched model itself has 0 by definition",
    score=_lead,
    spread=_by_side,
    finish=_between,
    needs="pairs",
    unit="nats",
    bounds=None,
)
