"""What happens during a run, as values. The engine emits them; whoever listens decides what to do.

An observer is any callable that takes an event. ``run`` attaches the JSONL writer and the console; a test
attaches ``list.append``.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events. ``time`` is seconds since the epoch."""

    time: float = field(default_factory=time.time, kw_only=True)

    def to_dict(self) -> dict[str, Any]:
        """A flat mapping with the event's name, as stored in ``events.jsonl``."""
        return {"event": type(self).__name__, **dataclasses.asdict(self)}


@dataclass(frozen=True, slots=True)
class Started(Event):
    """Training begins (or goes on, if ``step`` > 0). ``settings`` are the resolved facts worth reading."""

    step: int
    total_steps: int
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StepEnd(Event):
    """One optimizer update. ``loss`` is per weighted token; ``tokens`` counts all tokens read so far."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    tokens_per_second: float
    seconds_left: float
    memory_mb: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EvalEnd(Event):
    """Validation at ``step``. ``best`` says whether the watched metric improved."""

    step: int
    metrics: dict[str, float]
    best: bool


@dataclass(frozen=True, slots=True)
class Saved(Event):
    """A checkpoint is complete on disk."""

    step: int
    path: str


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """Something the user should know: what, and what to do."""

    step: int
    message: str


@dataclass(frozen=True, slots=True)
class Stage(Event):
    """A stage of the run begins: ``score base``, ``train`` …; ``detail`` is one plain sentence."""

    name: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StageEnd(Event):
    """A stage of the run is over; ``seconds`` is what it took."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """Progress inside a long stage other than training."""

    name: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """Training is over. ``reason`` is plain words; ``best_step`` is the checkpoint that was kept."""

    step: int
    reason: str
    best_step: int


Observer = Callable[[Event], None]


def silent(event: Event) -> None:
    """The observer that does nothing."""


def both(*observers: Observer) -> Observer:
    """One observer that passes each event to all of ``observers``, in order."""

    def fan_out(event: Event) -> None:
        for observer in observers:
            observer(event)

    return fan_out
