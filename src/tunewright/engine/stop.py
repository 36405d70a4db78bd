"""When to stop: patience on a watched metric, and the signs of overfitting."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Watch:
    """The metric that decides which checkpoint is best, and how long to wait for a better one.

    ``patience`` counts evaluations without an improvement of more than ``min_improvement``; 0 never stops.
    """

    metric: str = "validation_loss"
    patience: int = 0
    min_improvement: float = 0.0
    higher_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """What the watch remembers; part of every checkpoint."""

    best: float | None = None
    best_step: int = 0
    waited: int = 0
    validation: tuple[float, ...] = ()  # validation losses, oldest first
    train: tuple[
        float | None, ...
    ] = ()  # mean training loss since the evaluation before; none before the first step
    warned: bool = False

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Progress:
        """The inverse of ``dataclasses.asdict``, after a trip through JSON."""
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return cls(**known)

    def update(
        self, watch: Watch, step: int, metrics: dict[str, float], train_loss: float | None
    ) -> Progress:
        """The progress after an evaluation at ``step``."""
        value, loss = metrics[watch.metric], metrics.get("validation_loss")
        gain = 0.0 if self.best is None else (value - self.best) * (1 if watch.higher_is_better else -1)
        better = self.best is None or gain > watch.min_improvement
        return replace(
            self,
            best=value if better else self.best,
            best_step=step if better else self.best_step,
            waited=0 if better else self.waited + 1,
            validation=(*self.validation, *([] if loss is None else [loss])),
            train=(*self.train, *([] if loss is None else [train_loss])),
        )

    def exhausted(self, watch: Watch) -> bool:
        """True if patience has run out."""
        return watch.patience > 0 and self.waited >= watch.patience

    @property
    def overfitting(self) -> bool:
        """Validation loss has risen at the last two evaluations while training loss kept falling."""
        if len(self.validation) < 3:
            return False
        a, b, c = self.validation[-3:]
        x, y, z = (math.inf if loss is None else loss for loss in self.train[-3:])
        return a < b < c and x > y > z
