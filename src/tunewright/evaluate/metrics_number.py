"""Numbers as a head gives them: errors in the unit of the labels, and what prediction intervals are worth.

Shapes: n rows, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunewright.evaluate.metrics import Array, Metric

Interval = tuple[float, float]


def _errors(predictions: Sequence[float], references: Sequence[float]) -> Array:
    return np.asarray(predictions, dtype=np.float64) - np.asarray(references, dtype=np.float64)


def _absolute(predictions: Sequence[float], references: Sequence[float]) -> Array:
    return np.abs(_errors(predictions, references))


def _squared(predictions: Sequence[float], references: Sequence[float]) -> Array:
    found: Array = _errors(predictions, references) ** 2
    return found


def _root(sums: Array, sizes: Array) -> Array:
    return np.sqrt(sums[:, 0] / sizes)


def _explained(predictions: Sequence[float], references: Sequence[float]) -> Array:
    """(n, 2): the label, from the mean of all labels so that its square keeps its digits, and the error."""
    labels = np.asarray(references, dtype=np.float64)
    return np.column_stack([labels - labels.mean(), _errors(predictions, references)])


def _moments(rows: Array) -> Array:
    """(n, 3): label, its square, the square of the error."""
    label, error = rows.T
    return np.column_stack([label, label**2, error**2])


def _r2(sums: Array, sizes: Array) -> Array:
    """1 - squared error / squared distance from the mean; minus the squared error where labels never vary."""
    label, square, error = sums.T
    spread = square - label**2 / sizes
    varies = spread > 1e-12 * np.maximum(square, 1e-300)
    found: Array = np.where(varies, 1 - error / np.where(varies, spread, 1.0), -error)
    return found


def _inside(predictions: Sequence[Interval], references: Sequence[float]) -> Array:
    pairs = zip(predictions, references, strict=True)
    return np.array([low <= value <= high for (low, high), value in pairs], dtype=np.float64)


def _width(predictions: Sequence[Interval], references: Sequence[float]) -> Array:
    return np.array([high - low for low, high in predictions], dtype=np.float64)


mae = Metric(
    name="mae",
    description="mean absolute error, in the unit of the labels",
    score=_absolute,
    higher_is_better=False,
    needs="head",
    unit="mae",
    bounds=None,
)
rmse = Metric(
    name="rmse",
    description="root of the mean squared error, in the unit of the labels; large errors count more",
    score=_squared,
    finish=_root,
    higher_is_better=False,
    needs="head",
    unit="rmse",
    bounds=None,
)
r2 = Metric(
    name="r2",
    description="share of the variance of the labels that is explained; 0 is what their mean would reach",
    score=_explained,
    spread=_moments,
    finish=_r2,
    needs="head",
    unit="r2",
    bounds=None,
)
interval_coverage = Metric(
    name="interval_coverage",
    description="share of rows whose number lies in its prediction interval; it should be the level stated",
    score=_inside,
    needs="head",
)
interval_width = Metric(
    name="interval_width",
    description="mean width of the prediction intervals, in the unit of the labels",
    score=_width,
    higher_is_better=False,
    needs="head",
    unit="interval_width",
    bounds=None,
)
