"""Regression with a new head: one number per text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Self

import numpy as np
from torch import Tensor

from tunewright.core.errors import DataError
from tunewright.core.records import Example, Labelled, Tokens
from tunewright.objectives.base import (
    BaseObjective,
    Batch,
    Forward,
    HeadSpec,
    Judged,
    LossOut,
    Mean,
    Renderer,
    rows_with,
)
from tunewright.objectives.head_losses import ERROR_LOSSES


class Regression(BaseObjective):
    """Learn a number. ``head_losses.ERROR_LOSSES`` counts errors in standard deviations of the labels.

    loss = sum_i l(score_i, (y_i - mean) / std) / rows, with the mean and standard deviation (divided by n) of
    the training rows.
    """

    accepts = frozenset({"labelled"})
    judged: Judged = "numbers"
    mean = 0.0
    std = 0.0  # until fitted

    def fitted(self, train: Sequence[Example]) -> Self:
        """With the mean and standard deviation of the training rows.

        Raises ``DataError`` for a label that is no finite number, and for labels that are all the same.
        """
        values = np.array([self.number(example) for example in train], dtype=np.float64)
        if len(set(values.tolist())) < 2:
            found = f"only the number {values[0]:g}" if len(values) else "no number"
            raise DataError(
                f"objective {self.name!r}: {len(values)} training rows hold {found}; there is nothing to"
                " learn. Add rows with other numbers"
            )
        learned = copy(self)
        with np.errstate(over="ignore", invalid="ignore"):
            learned.mean, learned.std = float(values.mean()), float(values.std())
        if not 0 < learned.std < math.inf:
            raise DataError(
                f"objective {self.name!r}: labels from {values.min():g} to {values.max():g} have the standard"
                f" deviation {learned.std:g}, by which they cannot be divided; write them in another unit"
            )
        return learned

    @property
    def heads(self) -> Mapping[str, HeadSpec]:
        """One score, in standard deviations from the mean of the training rows."""
        options = self.options
        facts = {"task": "regress", "mean": self.mean, "std": self.std}
        return {
            "score": HeadSpec(1, options.pooling, options.pooling == "mean", options.head_rate, facts),
        }

    def encode(self, example: Example, renderer: Renderer) -> list[Tokens]:
        """The text as context, with its standardised number. Raises ``DataError`` if the label is none."""
        assert self.std > 0, "fitted() tells the scale; call it first"
        target = (self.number(example) - self.mean) / self.std
        assert isinstance(example, Labelled)
        ids = renderer.reading(example.messages)
        extras = {"label": target}
        return renderer.limited(Tokens(ids, [0.0] * len(ids), extras=extras, meta=example.meta))

    def count(self, batch: Batch) -> Tensor:
        """The number of rows."""
        return (~batch.extras["label"].isnan()).sum()

    def loss(self, forward: Forward, batch: Batch) -> LossOut:
        """Sum of the rows' losses, and the mean absolute error in the unit of the labels."""
        rows = rows_with(batch, "label")
        scores, targets = forward.scores(batch)[rows, 0], batch.extras["label"][rows]
        losses = ERROR_LOSSES[self.options.loss](scores, targets)
        off = (scores.detach() - targets).abs().sum() * self.std
        return LossOut(losses.sum(), {"absolute_error": Mean(off, self.count(batch))})

    def number(self, example: Example) -> float:
        """The label of a row as a number; a text that says one counts.

        Raises ``DataError`` for a label that is no finite number.
        """
        self.check_kind(example)
        assert isinstance(example, Labelled)
        label = example.label
        try:
            number = math.nan if isinstance(label, bool | tuple) else float(label)
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number) or "_" in str(label):  # float("1_0") is 10
            raise DataError(
                f"{example.meta.where()}: the label is {label!r}, and objective {self.name!r} needs a finite"
                " number; correct the row, or use objective classify for classes"
            )
        return number
