"""The protocols of training, and the tensors that pass between them.

An ``Objective`` says what is minimised. It never steps, never sees a config, a tokenizer or a device. It
asks a ``Forward`` for log-probabilities, scores or hidden states and returns a sum; ``count`` says what to
divide it by, and the engine divides once, over all micro-batches and ranks.

Shapes: T tokens in a packed batch, N positions that are predicted, S segments, H hidden size, K outputs of
a head, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from tunewright.core.config import Section
from tunewright.core.errors import ConfigError
from tunewright.core.names import Registry
from tunewright.core.records import Example, Message, Tokens, kind_of
from tunewright.models.placing import placed
from tunewright.objectives.options.table import GROUPWISE, PAIRWISE

Pooling = Literal["last", "mean", "none"]
Judged = Literal["answers", "distilled", "labels", "numbers", "preferences", "scores", "rewards", "tasks"]


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

    ``extras`` holds one value per segment by name, NaN where a segment has none: (S,). ``marks`` are the same
    numbers on the host, so that nobody waits for a GPU to learn which segments have which.
    ``tracks`` holds one value per target by name, in the order of ``targets``: (N,).
    ``rows`` are the indices of the examples in the data set, for messages; ``task`` is that of all its rows.
    """

    ids: Tensor
    positions: Tensor
    segments: tuple[Segment, ...]
    targets: Targets
    extras: dict[str, Tensor] = field(default_factory=dict)
    marks: dict[str, tuple[float, ...]] = field(default_factory=dict)
    rows: tuple[int, ...] = ()
    tracks: dict[str, Tensor] = field(default_factory=dict)
    task: str = ""

    @property
    def size(self) -> int:
        """Number of tokens T."""
        return int(self.ids.shape[0])


class Mean(NamedTuple):
    """A number to report: a ``total`` and the ``weight`` to divide it by, both added up over a step first."""

    total: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class LossOut:
    """``total`` is the sum over all that ``Objective.count`` counts, and still carries its gradient."""

    total: Tensor
    metrics: dict[str, Mean] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadSpec:
    """A new linear output layer on hidden states: ``outputs`` numbers per sequence or token.

    ``pooling`` says which state of a sequence is read; with ``none`` the outputs are numbers that depend on
    no input. ``rate`` multiplies the learning rate. ``facts`` are plain values saved beside the weights: the
    labels, the scale of a target.
    """

    outputs: int
    pooling: Pooling = "last"
    bias: bool = False
    rate: float = 1.0
    facts: Mapping[str, Any] = field(default_factory=dict)


class Forward(Protocol):
    """The model as an objective sees it. ``hidden``, once computed, may be passed on to the other methods."""

    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states of every token, (T, H)."""
        ...

    def logprobs(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        """log p of each target token, (N,) float32, in the order of ``batch.targets``."""
        ...

    def per_target(self, batch: Batch, fn: PerTarget, hidden: Tensor | None = None) -> Tensor:
        """``fn`` of the logits of each target, in pieces that bound memory: (N,) or (N, k) float32."""
        ...

    def scores(self, batch: Batch, hidden: Tensor | None = None, name: str = "score") -> Tensor:
        """Output of the head ``name`` for every segment, its prefix included: (S, K) float32."""
        ...

    def values(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        """Output of the head ``value`` at the state that predicts each target: (N,) float32."""
        ...

    def numbers(self, name: str) -> Tensor:
        """The trained numbers of the head ``name`` (pooling ``none``): (K,) float32."""
        ...


PerTarget = Callable[[Tensor, Tensor], Tensor]
"""(logits (n, V) float32, indices of these targets (n,)) -> (n,) or (n, k); differentiable in the logits."""


class Renderer(Protocol):
    """Turns examples into tokens for one model; implemented in ``data.render``."""

    def conversation(self, example: Example) -> list[Tokens]: ...

    def documents(self, example: Example) -> list[Tokens]: ...

    def branches(self, example: Example) -> list[Tokens]:
        """The prompt of a preference, a ranking or a liked answer with its answers as branches."""
        ...

    def reading(self, messages: Sequence[Message]) -> list[int]:
        """A text or chat to be judged as a whole: plain text for one user turn, else the chat template."""
        ...

    def prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]: ...

    def limited(self, tokens: Tokens) -> list[Tokens]:
        """``tokens`` within ``max_length``, by the rule for over-long sequences; empty if left out."""
        ...


@runtime_checkable
class Objective(Protocol):
    """What is minimised. Constructed from its name and its settings (``objectives.options``) alone."""

    requires: frozenset[str]  # supplied before training, see run.supply: "reference", "rollouts", "teacher"
    accepts: frozenset[str]  # kinds of example, see core.records.kind_of
    judged: Judged  # how the result is measured on held-out rows
    rows_per_step: int | None  # rows of an update, where they are not counted by tokens
    updates: int  # updates that see the same rows
    rate: float  # multiple of the prior learning rate, which is that of supervised tuning
    shares: Mapping[str, float]  # task -> sequences per epoch, as a multiple of all; what is not named has 1

    def fitted(self, train: Sequence[Example]) -> Self:
        """The objective with what it must know of the training rows: labels, class weights, scales."""
        ...

    @property
    def heads(self) -> Mapping[str, HeadSpec]:
        """New output layers by name: ``score`` of sequences, ``value`` of tokens, ``balance`` of tasks."""
        ...

    def encode(self, example: Example, renderer: Renderer) -> list[Tokens]:
        """Rendered sequences of one example; several where it must be cut."""
        ...

    def count(self, batch: Batch) -> Tensor:
        """What the loss of this batch is a sum over: weighted tokens, pairs, rows."""
        ...

    def loss(self, forward: Forward, batch: Batch) -> LossOut:
        """The sum to minimise, and numbers to report."""
        ...


class Drawn(NamedTuple):
    """The sequences of one update, and numbers to report about how they came to be."""

    sequences: list[Tokens]
    metrics: dict[str, float]


class Source(Protocol):
    """Where the sequences of an update come from: they are stored, or a model writes them now.

    ``sizes`` is what each row counts against ``tokens_per_step``. ``updates`` updates in a row see the same
    rows; ``draw`` is called once for each of them.
    """

    sizes: Sequence[int]
    updates: int

    def rows(self, epoch: int) -> Sequence[int]:
        """The rows of an epoch (from 0), in ascending order, some of them perhaps never or several times."""
        ...

    def draw(self, step: int, rows: Sequence[int]) -> Drawn:
        """The sequences of update ``step`` (from 1), a pure function of it, of ``rows`` and of the state."""
        ...

    def state(self) -> dict[str, Any]:
        """All that a resumed run must know, as plain JSON values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` gave."""
        ...


class BaseObjective:
    """What most objectives share: nothing required, no head, one count per weighted token."""

    requires: frozenset[str] = frozenset()
    accepts: frozenset[str] = frozenset()
    judged: Judged = "answers"
    rows_per_step: int | None = None
    updates: int = 1
    rate: float = 1.0
    shares: Mapping[str, float] = MappingProxyType({})

    def __init__(self, name: str, options: Section) -> None:
        self.name = name
        self.options: Any = options

    def fitted(self, train: Sequence[Example]) -> Self:
        """Nothing to learn from the rows before training."""
        return self

    @property
    def heads(self) -> Mapping[str, HeadSpec]:
        """No new output layer."""
        return {}

    def count(self, batch: Batch) -> Tensor:
        """The sum of weights."""
        return batch.targets.weights.sum()

    def check_kind(self, example: Example) -> None:
        """Raise ``ConfigError`` for a row of a kind that this objective cannot learn from."""
        if kind_of(example) not in self.accepts:
            raise ConfigError(
                f"objective {self.name!r} learns from {' and '.join(sorted(self.accepts))} rows, but"
                f" {example.meta.where()} is a {kind_of(example)} row"
            )


def per_segment(values: Tensor, batch: Batch) -> Tensor:
    """Sum of ``values`` (N,) over the targets of each segment: (S,), in the format of ``values``."""
    out = values.new_zeros(len(batch.segments))
    return out.index_add(0, batch.targets.segment, values)


def segment_lengths(batch: Batch) -> Tensor:
    """Sum of target weights of each segment: (S,)."""
    return per_segment(batch.targets.weights, batch)


def rows_with(batch: Batch, name: str, value: float | None = None) -> Tensor:
    """Indices of the segments that carry ``extras[name]``, or for which it is ``value``: (R,)."""
    rows = [
        row
        for row, found in enumerate(batch.marks[name])
        if (found == value if value is not None else not math.isnan(found))
    ]
    return placed(torch.tensor(rows, dtype=torch.long), batch.ids.device)


_HERE = "tunewright.objectives"
OBJECTIVES: Registry[Any] = Registry(
    "objective",
    {
        "sft": f"{_HERE}.sft:SupervisedFineTuning",
        "text": f"{_HERE}.sft:ContinuedPretraining",
        "classify": f"{_HERE}.classify:Classification",
        "regress": f"{_HERE}.regress:Regression",
        "reward": f"{_HERE}.reward:RewardModelling",
        **dict.fromkeys(PAIRWISE, f"{_HERE}.preference:Preferences"),
        **dict.fromkeys(("ipo", "slic", "simpo", "cpo", "orpo"), f"{_HERE}.preference:Preferences"),
        "kto": f"{_HERE}.kto:LikedOrNot",
        **dict.fromkeys(GROUPWISE, f"{_HERE}.policy:GroupPolicy"),
        "ppo": f"{_HERE}.ppo:ProximalPolicy",
        "distill": f"{_HERE}.distill:Distillation",
        "multi": f"{_HERE}.multi:MultiTask",
    },
)


def make_objective(name: str, options: Section) -> Objective:
    """The objective called ``name`` with its settings (see ``options.table.options_of``)."""
    objective: Objective = OBJECTIVES[name](name, options)
    return objective
