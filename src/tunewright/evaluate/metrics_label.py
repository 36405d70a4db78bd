"""Classification read from generated text: the answer is the label, or it is wrong."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array, hstack

from tunewright.evaluate.metrics import Array, Metric

NONE = -1  # class id of a generation that is no label of the reference set


def normalise_label(text: str) -> str:
    """The label that a text says: NFC, case folded, runs of white space as one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _accuracy(predictions: Sequence[str], references: Sequence[str]) -> Array:
    pairs = zip(predictions, references, strict=True)
    return np.array([normalise_label(p) == normalise_label(r) for p, r in pairs], dtype=np.float64)


def class_ids(predictions: Sequence[str], references: Sequence[str]) -> Array:
    """(n, 2): the true and the predicted class of each row. The classes are those of the references."""
    wanted = [normalise_label(r) for r in references]
    number = {label: i for i, label in enumerate(sorted(set(wanted)))}
    given = [number.get(normalise_label(p), NONE) for p in predictions]
    return np.column_stack([[number[w] for w in wanted], given]).astype(np.float64)


def _one_hot(rows: Array) -> csr_array:
    """(n, 3K): true class, predicted class, and class predicted rightly, one column per class each."""
    true, given = rows.astype(np.int64).T
    width = int(true.max()) + 1
    blocks = [
        _indicator(true, width),
        _indicator(given, width),
        _indicator(np.where(given == true, true, NONE), width),
    ]
    return csr_array(hstack(blocks, format="csr"))


def _indicator(ids: np.ndarray, width: int) -> csr_array:
    row = np.flatnonzero((ids != NONE) & (ids < width))
    return csr_array((np.ones(len(row)), (row, ids[row])), shape=(len(ids), width))


def _mean_f1(sums: Array, sizes: Array) -> Array:
    """Mean of F1 = 2 hits / (true + predicted) over the classes that occur among the references."""
    true, given, hits = np.split(sums, 3, axis=1)
    present = true > 0
    scores = np.divide(2 * hits, true + given, out=np.zeros_like(hits), where=present)
    found: Array = scores.sum(axis=1) / present.sum(axis=1)
    return found


accuracy = Metric(
    name="accuracy",
    description="share of answers that are the right label",
    score=_accuracy,
    signature="case:folded",
)
macro_f1 = Metric(
    name="macro_f1",
    description="mean F1 over the classes of the references, each class counting the same",
    score=class_ids,
    spread=_one_hot,
    finish=_mean_f1,
    signature="case:folded|classes:references",
)
