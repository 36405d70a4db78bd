"""The two protocols of training, and the tensors that pass between them.

An ``Objective`` says what is minimised. It never steps, never sees a config, a tokenizer or a device. It
asks a ``Forward`` for log-probabilities (or hidden states) and returns a sum and the count to divide it by;
the engine divides once, over all micro-batches and ranks.

Shapes: T tokens in a packed batch, N positions that are predicted, S segments, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from tunewright.core.names import Registry
from tunewright.core.records import Example, Tokens


class Segment(NamedTuple):
    """One stretch of a packed batch that attends to itself and to its ``parent`` prefix, to nothing else."""

    start: int
    length: int
    parent: int | None = None  # index of the segment this one continues


class Targets(NamedTuple):
    """What is predicted. ``hidden[source]`` predicts ``ids``; all are (N,), one entry per weighted token."""

    source: Tensor
    ids: Tensor
    weights: Tensor
    segment: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents laid end to end, without padding. ``ids`` and ``positions`` are (T,).

    ``extras`` holds one value per segment by name, NaN where a segment has none: (S,).
    ``rows`` are the indices of the examples in the data set, for messages.
    """

    ids: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    targets: Targets
    extras: dict[str, Tensor] = field(default_factory=dict)
    rows: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Number of tokens T."""
        return int(self.ids.shape[0])


@dataclass(frozen=True, slots=True)
class LossOut:
    """``total`` is a sum over ``count`` weighted tokens (or pairs), and so is each of ``metrics``."""

    total: Tensor
    count: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Forward(Protocol):
    """The model as an objective sees it."""

    def logprobs(self, batch: Batch) -> Tensor:
        """log p of each target token, (N,) float32, in the order of ``batch.targets``."""
        ...

    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states of every token, (T, H)."""
        ...


class Renderer(Protocol):
    """Turns examples into tokens for one model; implemented in ``data.render``."""

    def conversation(self, example: Example) -> list[Tokens]: ...

    def documents(self, example: Example) -> list[Tokens]: ...


@runtime_checkable
class Objective(Protocol):
    """What is minimised."""

    requires: frozenset[str]
    accepts: frozenset[str]  # kinds of example, see core.records.kind_of

    def encode(self, example: Example, renderer: Renderer) -> list[Tokens]:
        """Rendered sequences of one example; several where it must be cut."""
        ...

    def loss(self, forward: Forward, batch: Batch) -> LossOut:
        """The sum to minimise and the count to divide it by."""
        ...


OBJECTIVES: Registry[Any] = Registry(
    "objective",
    {
        "sft": "tunewright.objectives.sft:SupervisedFineTuning",
        "text": "tunewright.objectives.sft:ContinuedPretraining",
    },
)
