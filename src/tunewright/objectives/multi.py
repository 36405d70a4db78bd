"""Several tasks in one run: each has rows, an objective, a share of the epoch and a weight of its own.

The loss of a step is the sum over its tasks k, whose mean loss L_k is their own total by their own count:

    fixed          sum_k w_k L_k
    uncertainty    sum_k w_k (exp(-s_k) L_k + s_k)

s_k is learnt and starts at 0, where both are equal; it is best at log L_k, so a task with a larger loss comes
to count for less. This is the weighting by uncertainty of Kendall, Gal and Cipolla (2018, arXiv 1705.07115)
with s = log sigma^2: twice their term for a Gaussian error, L / (2 sigma^2) + log sigma, here for every kind
of loss. Their term for classes, L / sigma^2 + log sigma, would be half of it at twice the loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.names import nearest
from tunewright.core.records import Example, Tokens
from tunewright.objectives.base import (
    BaseObjective,
    Batch,
    Forward,
    HeadSpec,
    Judged,
    LossOut,
    Mean,
    Objective,
    PerTarget,
    Renderer,
    make_objective,
)
from tunewright.objectives.options.multi import MultiOptions

BALANCE = "balance"


def tasks_of(objective: Objective) -> Mapping[str, Objective]:
    """The objective of each task, in order; empty where all rows are for one thing."""
    return objective.tasks if isinstance(objective, MultiTask) else {}


def head_of(task: str, name: str) -> str:
    """What the head ``name`` of one task is called where there are several: ``score__intent``."""
    return f"{name}__{task}"


class MultiTask(BaseObjective):
    """One objective per task. Rows say theirs in ``meta.task``, sequences and batches in ``task``.

    Raises ``ConfigError`` for a task whose answers are sampled while training: they are no fixed rows to mix.
    """

    judged: Judged = "tasks"

    def __init__(self, name: str, options: MultiOptions) -> None:
        super().__init__(name, options)
        self.plans = options.plans
        self.tasks: dict[str, Objective] = {
            task: make_objective(plan.objective, plan.options) for task, plan in self.plans.items()
        }
        for task, child in self.tasks.items():
            if child.requires & {"rollouts", "student_answers"} or child.rows_per_step is not None:
                raise ConfigError(
                    f"objective {name!r}: task {task!r} has objective {self.plans[task].objective!r}, which"
                    " samples answers while it trains and cannot be mixed with others; train it in a run of"
                    " its own"
                )
            if getattr(self.plans[task].options, "neftune", 0.0):
                raise ConfigError(
                    f"objective {name!r}: task {task!r} sets neftune, noise for a whole run that is not"
                    " read for one task; remove it"
                )
        self.requires = frozenset().union(*(child.requires for child in self.tasks.values()))
        self.accepts = frozenset().union(*(child.accepts for child in self.tasks.values()))
        self.rate = min(child.rate for child in self.tasks.values())  # the most careful task sets the pace
        self.shares = {task: plan.share for task, plan in self.plans.items()}

    def fitted(self, train: Sequence[Example]) -> Self:
        """With every task fitted on its own rows. Raises ``DataError`` for a task without any."""
        rows: dict[str, list[Example]] = {task: [] for task in self.tasks}
        for example in train:
            rows[self.task_of(example)].append(example)
        if empty := [task for task in rows if not rows[task]]:
            raise DataError(f"task {empty[0]!r} has no training row left; give it more rows, or leave it out")
        learned = copy(self)
        learned.tasks = {task: child.fitted(rows[task]) for task, child in self.tasks.items()}
        return learned

    def with_task(self, task: str, child: Objective) -> Self:
        """A copy in which ``child`` is the objective of ``task``."""
        changed = copy(self)
        changed.tasks = {**self.tasks, task: child}
        return changed

    @property
    def heads(self) -> Mapping[str, HeadSpec]:
        """Those of all tasks, by ``head_of``; with learnt balance its numbers, one for each task."""
        found = {
            head_of(task, name): spec
            for task, child in self.tasks.items()
            for name, spec in child.heads.items()
        }
        if self.options.balance == "uncertainty":
            facts = {"tasks": list(self.tasks)}
            found[BALANCE] = HeadSpec(len(self.tasks), "none", rate=self.options.balance_rate, facts=facts)
        return found

    def task_of(self, example: Example) -> str:
        """The task of a row. Raises ``DataError`` if it is none of this run."""
        task = example.meta.task
        if task not in self.tasks:
            where = example.meta.where()
            raise DataError(f"{where}: the row is for the task {task!r}. {nearest(str(task), self.tasks)}")
        return task

    def encode(self, example: Example, renderer: Renderer) -> list[Tokens]:
        """As the objective of the row's task does, with the task marked."""
        task = self.task_of(example)
        return of_task(self.tasks[task].encode(example, renderer), task)

    def count(self, batch: Batch) -> Tensor:
        """What the objective of the batch's task counts."""
        return self.tasks[batch.task].count(batch)

    def loss(self, forward: Forward, batch: Batch) -> LossOut:
        """The weighed loss of the batch's task; ``TASK_loss`` reports it before weighing."""
        task = batch.task
        out, count = self.tasks[task].loss(TaskForward(forward, task), batch), self.count(batch)
        metrics = {f"{task}_{name}": mean for name, mean in out.metrics.items()}
        metrics[f"{task}_loss"] = Mean(out.total.detach(), count)
        total = out.total
        if self.options.balance == "uncertainty":
            s = forward.numbers(BALANCE)[list(self.tasks).index(task)]
            total = (-s).exp() * total + s * count
            metrics[f"{task}_uncertainty"] = Mean(s.detach() * count, count)
        return LossOut(self.plans[task].weight * total, metrics)


@dataclass(frozen=True)
class TaskForward:
    """``forward`` as the objective of one task sees it: its heads have the names they have alone."""

    forward: Forward
    task: str

    def hidden(self, batch: Batch) -> Tensor:
        return self.forward.hidden(batch)

    def logprobs(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        return self.forward.logprobs(batch, hidden)

    def per_target(self, batch: Batch, fn: PerTarget, hidden: Tensor | None = None) -> Tensor:
        return self.forward.per_target(batch, fn, hidden)

    def scores(self, batch: Batch, hidden: Tensor | None = None, name: str = "score") -> Tensor:
        return self.forward.scores(batch, hidden, head_of(self.task, name))

    def values(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        return self.forward.values(batch, hidden)

    def numbers(self, name: str) -> Tensor:
        return self.forward.numbers(head_of(self.task, name))


def of_task(sequences: Iterable[Tokens], task: str) -> list[Tokens]:
    """``sequences`` and their branches, marked as those of ``task``."""
    return [replace(t, task=task, branches=tuple(of_task(t.branches, task))) for t in sequences]
