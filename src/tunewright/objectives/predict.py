"""What the scores of a head say in words: labels, numbers with intervals, rewards.

The facts saved beside a head (``HeadSpec.facts``) are all that is needed, so judging and serving agree.

Shapes: S sequences, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tunewright.core.errors import ConfigError, DataError, ModelError
from tunewright.objectives.head_losses import ordinal_logprobs

HALF = 0.5


@dataclass(frozen=True, slots=True)
class Prediction:
    """``value`` is a label, several labels, a number or a reward.

    ``probabilities`` holds one number for each label of the facts, in their order: of the label (they sum to
    1), or with kind multi of its presence. ``interval`` holds the low and high end of a prediction interval.
    """

    value: str | tuple[str, ...] | float
    probabilities: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None


def predict(scores: Tensor, facts: Mapping[str, Any]) -> list[Prediction]:
    """The prediction of each row of ``scores`` (S, outputs of the head).

    Raises ``ModelError`` for a head of another task.
    """
    task = facts.get("task")
    if task not in TASKS:
        raise ModelError(f"the head says it is for the task {task!r}; known: {', '.join(sorted(TASKS))}")
    return TASKS[task](scores.detach().cpu().double(), facts)


def class_probabilities(scores: Tensor, kind: str) -> Tensor:
    """Probability of each class: (S, K); rows sum to 1 unless kind is multi."""
    if kind == "multi":
        return scores.sigmoid()
    return scores.softmax(dim=-1) if kind == "single" else ordinal_logprobs(scores).exp()


def decisions(scores: Tensor, kind: str, threshold: float = HALF) -> Tensor:
    """The index of the class of each sequence (S,), or for kind multi whether each class is named (S, K).

    ``single`` takes the most probable class. ``ordinal`` takes the median of the distribution, the number of
    k with P(y > k) > 1/2 (the rule of CORAL and CORN), for which the expected distance in ranks is least.
    ``multi`` names every class whose probability is at least ``threshold``.
    """
    if kind == "multi":
        return scores.sigmoid() >= threshold
    if kind == "single":
        return scores.argmax(dim=-1)
    return (F.logsigmoid(scores).cumsum(dim=-1) > math.log(HALF)).sum(dim=-1)


def half_width(residuals: Sequence[float], level: float) -> float:
    """Half the width of prediction intervals that hold a new value with probability at least ``level``.

    Split conformal prediction (Lei et al. 2018, "Distribution-free predictive inference for regression",
    arXiv 1604.04173): the k-th smallest of n absolute residuals on rows that were not trained on,
    k = ceil((n + 1) level). It holds for rows exchangeable with those, on average over them.

    Raises ``ConfigError`` for a level outside (0, 1) and ``DataError`` for fewer residuals than the level
    asks for (k > n) or one that is not finite.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}; a prediction interval needs one between 0 and 1, such as 0.9")
    errors = sorted(abs(float(r)) for r in residuals)
    if not all(map(math.isfinite, errors)):
        raise DataError("a residual is not a finite number, so there is no prediction interval")
    k = math.ceil((len(errors) + 1) * level - 1e-9)  # 0.55 * 100 is a little above 55
    if k > len(errors):
        needed = math.ceil(level / (1 - level) - 1e-9)
        raise DataError(
            f"{len(errors)} validation rows are too few for prediction intervals of level {level};"
            f" give at least {needed}, or lower the level"
        )
    return errors[k - 1]


def _classes(scores: Tensor, facts: Mapping[str, Any]) -> list[Prediction]:
    kind, labels = facts["kind"], facts["labels"]
    probabilities = class_probabilities(scores, kind).tolist()
    chosen = decisions(scores, kind, facts["threshold"]).tolist()
    if kind == "multi":
        named = [tuple(x for x, yes in zip(labels, row, strict=True) if yes) for row in chosen]
        return [Prediction(n, tuple(p)) for n, p in zip(named, probabilities, strict=True)]
    return [Prediction(labels[i], tuple(p)) for i, p in zip(chosen, probabilities, strict=True)]


def _numbers(scores: Tensor, facts: Mapping[str, Any]) -> list[Prediction]:
    """In the unit of the labels; with an interval if the facts hold its ``half_width`` (in the same unit)."""
    values = [facts["mean"] + facts["std"] * score for score in scores[:, 0].tolist()]
    half = facts.get("half_width")
    if half is None:
        return [Prediction(value) for value in values]
    return [Prediction(value, interval=(value - half, value + half)) for value in values]


def _rewards(scores: Tensor, facts: Mapping[str, Any]) -> list[Prediction]:
    return [Prediction(reward) for reward in scores[:, 0].tolist()]


TASKS: dict[str, Callable[[Tensor, Mapping[str, Any]], list[Prediction]]] = {
    "classify": _classes,
    "regress": _numbers,
    "reward": _rewards,
}
