"""Classes as a head names them: several labels per row, ordered labels, and how far its confidence holds.

Shapes: n rows, K labels, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunewright.evaluate.metrics import Array, Metric

BINS = 15
Labels = Sequence[str]


def _exact(predictions: Sequence[Labels], references: Sequence[Labels]) -> Array:
    pairs = zip(predictions, references, strict=True)
    return np.array([set(p) == set(r) for p, r in pairs], dtype=np.float64)


def _counts(predictions: Sequence[Labels], references: Sequence[Labels]) -> Array:
    """(n, 3): labels named rightly, labels named, labels there are."""
    pairs = [(set(p), set(r)) for p, r in zip(predictions, references, strict=True)]
    return np.array([[len(p & r), len(p), len(r)] for p, r in pairs], dtype=np.float64)


def _micro_f1(sums: Array, sizes: Array) -> Array:
    """2 hits / (named + there); 1 where there is nothing to name and nothing is named."""
    hits, named, there = sums.T
    found: Array = np.divide(2 * hits, named + there, out=np.ones_like(hits), where=named + there > 0)
    return found


def _presence(predictions: Sequence[Labels], references: Sequence[Labels]) -> Array:
    """(n, 2K): whether each label of the references is there, and whether it is named."""
    labels = sorted({label for row in references for label in row})
    there = [[label in set(row) for label in labels] for row in references]
    named = [[label in set(row) for label in labels] for row in predictions]
    return np.concatenate([np.array(there), np.array(named)], axis=1).astype(np.float64)


def _with_hits(rows: Array) -> Array:
    there, named = np.split(rows, 2, axis=1)
    return np.concatenate([there, named, there * named], axis=1)


def _macro_f1(sums: Array, sizes: Array) -> Array:
    """Mean of F1 over the labels that are there; where none is, whether none is named."""
    there, named, hits = np.split(sums, 3, axis=1)
    present = there > 0
    scores = np.divide(2 * hits, there + named, out=np.zeros_like(hits), where=present)
    none = (named.sum(axis=1) == 0).astype(np.float64)
    number = present.sum(axis=1)
    found: Array = np.divide(scores.sum(axis=1), number, out=none, where=number > 0)
    return found


def _distance(predictions: Sequence[int], references: Sequence[int]) -> Array:
    return np.abs(np.asarray(predictions, dtype=np.float64) - np.asarray(references, dtype=np.float64))


def _confidence(predictions: Sequence[float], references: Sequence[bool]) -> Array:
    """(n, 2): the probability that the head gives its answer, and whether the answer is right."""
    return np.column_stack([predictions, references]).astype(np.float64)


def _binned(rows: Array) -> Array:
    """(n, 15): confidence minus rightness, in the column of the bin that the confidence falls in."""
    confidence, right = rows.T
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    spread = np.zeros((len(rows), BINS))
    spread[np.arange(len(rows)), place] = confidence - right
    return spread


def _calibration(sums: Array, sizes: Array) -> Array:
    """sum_b |confidence - accuracy| n_b / n, the expected calibration error (Guo et al. 2017, 1706.04599)."""
    found: Array = np.abs(sums).sum(axis=1) / sizes
    return found


label_exact = Metric(
    name="label_exact",
    description="share of rows whose labels are named exactly, none missing and none too many",
    score=_exact,
    needs="head",
)
label_f1 = Metric(
    name="label_f1",
    description="F1 over all labels of all rows, each label of a row counting the same (micro average)",
    score=_counts,
    finish=_micro_f1,
    needs="head",
)
label_macro_f1 = Metric(
    name="label_macro_f1",
    description="mean F1 over the labels of the references, each label counting the same",
    score=_presence,
    spread=_with_hits,
    finish=_macro_f1,
    needs="head",
    signature="labels:references",
)
rank_error = Metric(
    name="rank_error",
    description="mean number of ranks between the predicted and the right label",
    score=_distance,
    higher_is_better=False,
    needs="head",
    unit="ranks",
    bounds=None,
)
calibration_error = Metric(
    name="calibration_error",
    description="mean gap between how sure the model is and how often it is right, in 15 bins",
    score=_confidence,
    spread=_binned,
    finish=_calibration,
    higher_is_better=False,
    needs="head",
    signature=f"bins:{BINS}",
)
