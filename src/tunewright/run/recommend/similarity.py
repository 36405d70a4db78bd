"""From gradients of rows to one number per candidate, with an interval.

A candidate scores the mean, over the problem's examples, of the cosine to the ``SHARE`` of its rows that are
most like each of them. A plain mean over all rows would mostly measure format: what every short answer has in
common outweighs what it is about. For the same reason the mean gradient of all candidates, each counting the
same, is taken off first (not with one candidate, where nothing would be left).

Shapes: p examples of the problem, c rows of a candidate, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunewright.core.hashing import seed_from
from tunewright.run.recommend.gradients import unit

Array = NDArray[np.float64]
SHARE = 0.2
RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Similarity:
    """``score`` with its interval ranks; ``plain`` is the mean cosine over all pairs, nothing taken off."""

    score: float
    low: float
    high: float
    plain: float
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "score": self.score,
            "low": self.low,
            "high": self.high,
            "level": LEVEL,
            "plain_mean": self.plain,
            "rows": self.rows,
        }


def similarities(problem: Tensor, candidates: Mapping[str, Tensor], seed: int) -> dict[str, Similarity]:
    """The score of each candidate; all hold unit gradients, (p, d) and (c, d)."""
    common = torch.stack([rows.mean(0) for rows in candidates.values()]).mean(0)
    taken = common if len(candidates) > 1 else torch.zeros_like(common)
    own = unit(problem - taken)
    found = {}
    for name, rows in candidates.items():
        cosines = (own @ unit(rows - taken).T).double().numpy()
        values = resampled(cosines, seed)
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        score, plain = top_mean(cosines), float((problem @ rows.T).mean())
        found[name] = Similarity(score, min(float(low), score), max(float(high), score), plain, len(rows))
    return found


def top_mean(cosines: Array, share: float = SHARE) -> float:
    """Mean over rows p of the mean of the largest ``share`` of each, (p, c) -> number."""
    weights = np.ones(cosines.shape[1])
    return float(_best(np.sort(cosines)[:, ::-1], np.broadcast_to(weights, cosines.shape), share).mean())


def resampled(cosines: Array, seed: int, share: float = SHARE) -> Array:
    """``top_mean`` of resamples of the problem's examples and of the candidate's rows at once, (R,)."""
    draw = np.random.default_rng(seed_from(seed, "resample"))
    p, c = cosines.shape
    order = np.argsort(-cosines, axis=1)
    ranked = np.take_along_axis(cosines, order, axis=1)
    values = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        rows = np.bincount(draw.integers(0, p, p), minlength=p)
        columns = np.bincount(draw.integers(0, c, c), minlength=c).astype(np.float64)
        values[i] = rows @ _best(ranked, columns[order], share) / p
    return values


def _best(ranked: Array, weights: Array, share: float) -> Array:
    """Weighted mean of the best ``share`` of each row of ``ranked``, which falls: (p, c) -> (p,)."""
    wanted = share * weights.sum(axis=1, keepdims=True)
    before = np.cumsum(weights, axis=1) - weights
    taken = np.clip(wanted - before, 0.0, weights)
    means: Array = (ranked * taken).sum(axis=1) / taken.sum(axis=1)
    return means
