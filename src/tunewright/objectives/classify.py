"""Classification with a new head: one class, any number of classes, or classes in a stated order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Self

import torch
from torch import Tensor

from tunewright.core.config import Section
from tunewright.core.errors import ConfigError, DataError
from tunewright.core.names import nearest
from tunewright.core.records import Example, Labelled, Tokens
from tunewright.models.placing import placed
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
from tunewright.objectives.head_losses import CLASS_LOSSES
from tunewright.objectives.predict import decisions

INSTEAD = {
    bool: "true / false says that an answer was liked; use objective kto, or write the class as text",
    float: "a number on a scale is learnt by objective regress; to name a class, write it as text",
    int: "write the classes of each row as a list of texts",
    str: "write the classes of each row as a list, or set kind to single",
    tuple: "a list of classes needs kind multi",
}


class Classification(BaseObjective):
    """Learn to name classes. The loss of each kind stands in ``head_losses.CLASS_LOSSES``.

    The sum is divided by the sum of the weights of the rows' classes, as in torch's weighted mean (``multi``:
    by the number of rows). Class weights ``balanced`` are n / (K n_k) for n rows of which n_k have class k
    (King and Zeng 2001, as scikit-learn); with ``multi``, the presence of class k weighs (n - n_k) / n_k
    against 1 for its absence.
    """

    accepts = frozenset({"labelled"})
    judged: Judged = "labels"

    def __init__(self, name: str, options: Section) -> None:
        super().__init__(name, options)
        self.labels: tuple[str, ...] = tuple(self.options.labels or ())
        self.weights: tuple[float, ...] = ()
        self._index: dict[str, int] = {}

    def fitted(self, train: Sequence[Example]) -> Self:
        """With the labels and class weights of the training rows.

        Raises ``DataError`` for a label of the wrong type, for fewer than two classes (``multi``: none) and
        for a label that the option ``labels`` does not list; ``ConfigError`` for a listed label that no row
        has, or a weight for an unknown one.
        """
        named = [self.named(example) for example in train]
        seen = Counter(label for labels in named for label in set(labels))
        learned = copy(self)
        learned.labels = tuple(self.options.labels or sorted(seen))
        learned._index = {label: k for k, label in enumerate(learned.labels)}
        for example, labels in zip(train, named, strict=True):
            learned._indices(example, labels)
        self._check_seen(seen, learned.labels, len(train))
        learned.weights = self._class_weights(seen, learned.labels, len(train))
        return learned

    @property
    def heads(self) -> Mapping[str, HeadSpec]:
        """One score per class, or for K ordered classes K - 1; how many, ``fitted`` tells.

        Without a bias where the last token of an unordered kind is read: so it is the layer ``score`` of the
        sequence classifiers of transformers.
        """
        options = self.options
        facts = {
            "task": "classify",
            "kind": options.kind,
            "labels": list(self.labels),
            "threshold": options.threshold,
        }
        ordered = options.kind == "ordinal"
        bias = ordered or options.pooling == "mean"
        outputs = len(self.labels) - ordered
        return {"score": HeadSpec(outputs, options.pooling, bias, options.head_rate, facts)}

    def encode(self, example: Example, renderer: Renderer) -> list[Tokens]:
        """The text as context, with the index of its class (``multi``: 0 or 1 for each class).

        Raises ``DataError`` for a label of the wrong type or one that no training row has.
        """
        assert self.weights, "fitted() tells the labels; call it first"
        indices = self._indices(example, self.named(example))
        assert isinstance(example, Labelled)
        if self.options.kind == "multi":
            extras = {f"label_{k}": float(k in indices) for k in range(len(self.labels))}
        else:
            extras = {"label": float(indices[0])}
        ids = renderer.reading(example.messages)
        return renderer.limited(Tokens(ids, [0.0] * len(ids), extras=extras, meta=example.meta))

    def count(self, batch: Batch) -> Tensor:
        """The sum over rows of the weight of their class; for ``multi`` the number of rows."""
        _, labels = self._targets(batch)
        if self.options.kind == "multi":
            return labels.new_full((), float(len(labels)))
        return placed(torch.tensor(self.weights), labels.device)[labels].sum()

    def loss(self, forward: Forward, batch: Batch) -> LossOut:
        """Sum of the rows' losses, and how many rows are wholly right (``ordinal``: how many ranks off)."""
        kind = self.options.kind
        rows, labels = self._targets(batch)
        scores = forward.scores(batch)[rows]
        weights = placed(torch.tensor(self.weights, dtype=scores.dtype), scores.device)
        losses = CLASS_LOSSES[kind](scores, labels, weights, self.options.label_smoothing)
        chosen = decisions(scores.detach(), kind, self.options.threshold)
        right = (chosen == labels).reshape(len(rows), -1).all(dim=-1)
        number = losses.new_full((), float(len(rows)))
        metrics = {"accuracy": Mean(right.sum(), number)}
        if kind == "ordinal":
            metrics["rank_error"] = Mean((chosen - labels).abs().sum(), number)
        return LossOut(losses.sum(), metrics)

    def named(self, example: Example) -> tuple[str, ...]:
        """The classes that a row names; a whole number is a name too (class 0, 1 …).

        Raises ``DataError`` for a label that does not fit the kind.
        """
        self.check_kind(example)
        assert isinstance(example, Labelled)
        label, several = example.label, self.options.kind == "multi"
        if several and isinstance(label, tuple):
            return label
        if not several and isinstance(label, str | int) and not isinstance(label, bool):
            return (str(label),)
        raise DataError(
            f"{example.meta.where()}: the label is {label!r}, which kind {self.options.kind!r} of objective"
            f" {self.name!r} cannot learn: {INSTEAD[type(label)]}"
        )

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The segments with a label (R,), and their class (R,) or for ``multi`` 0 or 1 per class (R, K)."""
        if self.options.kind != "multi":
            rows = rows_with(batch, "label")
            return rows, batch.extras["label"][rows].long()
        rows = rows_with(batch, "label_0")
        return rows, torch.stack([batch.extras[f"label_{k}"][rows] for k in range(len(self.labels))], dim=-1)

    def _indices(self, example: Example, labels: Iterable[str]) -> list[int]:
        for label in labels:
            if label not in self._index:
                origin = "the option labels" if self.options.labels else "the training rows"
                raise DataError(
                    f"{example.meta.where()}: the label {label!r} is none of the {len(self.labels)} labels of"
                    f" {origin}, so it can never be predicted. {nearest(label, self.labels)} Correct the row,"
                    " or add rows with this label to the training data"
                )
        return [self._index[label] for label in labels]

    def _check_seen(self, seen: Mapping[str, int], labels: Sequence[str], rows: int) -> None:
        unseen = [label for label in labels if not seen.get(label)]
        if unseen:
            raise ConfigError(
                f"objective {self.name!r}: labels names {unseen[0]!r}, but none of {rows} training rows has"
                f" it; add such rows or remove it. {nearest(unseen[0], seen)}"
            )
        if len(labels) < (1 if self.options.kind == "multi" else 2):
            found = f"only the label {labels[0]!r}" if labels else "no label"
            raise DataError(
                f"objective {self.name!r}: {rows} training rows have {found}; there is nothing to tell apart."
                " Add rows of another class"
            )

    def _class_weights(self, seen: Mapping[str, int], labels: Sequence[str], rows: int) -> tuple[float, ...]:
        rule = self.options.class_weights
        if isinstance(rule, dict):
            for label in rule:
                if label not in labels:
                    raise ConfigError(
                        f"objective {self.name!r}: class_weights names {label!r}. {nearest(label, labels)}"
                    )
            return tuple(rule.get(label, 1.0) for label in labels)
        if rule == "none":
            return (1.0,) * len(labels)
        return balanced_weights(seen, labels, rows, several=self.options.kind == "multi")


def balanced_weights(
    seen: Mapping[str, int], labels: Sequence[str], rows: int, *, several: bool
) -> tuple[float, ...]:
    """n / (K n_k) for each of K classes, or where rows have ``several`` of them (n - n_k) / n_k.

    Raises ``DataError`` for a class that every one of several-class rows has.
    """
    if not several:
        return tuple(rows / (len(labels) * seen[label]) for label in labels)
    if always := [label for label in labels if seen[label] == rows]:
        raise DataError(
            f"all {rows} training rows have the label {always[0]!r}, which class_weights 'balanced' cannot"
            " balance; add rows without it, or set class_weights to none"
        )
    return tuple((rows - seen[label]) / seen[label] for label in labels)
