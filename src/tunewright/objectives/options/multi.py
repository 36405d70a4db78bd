"""Settings of several tasks in one run."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from tunewright.core.config import Section, build
from tunewright.core.settings import Settings
from tunewright.objectives.options.table import options_of

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
TAKEN = "validation"  # its loss would be called validation_loss, which is that of all tasks
APART = ("multi", "rlhf")  # they are several objectives themselves


class TaskSection(Settings):
    """One of several tasks; further settings belong to its objective."""

    model_config = ConfigDict(extra="allow")

    objective: str = Field(..., description="What is minimised for this task: sft, classify, dpo and others.")
    weight: float = Field(1.0, gt=0.0, description="What the mean loss of the task is multiplied by.")
    share: float = Field(
        1.0, gt=0.0, description="Sequences per epoch, as a multiple of those the task has; 0.5 takes half."
    )

    @property
    def options(self) -> Section:
        """The settings of the task's objective, defaults filled in."""
        return options_of(self.objective, self.model_extra or {}, beside=tuple(type(self).model_fields))


class MultiOptions(Settings):
    """Several tasks, each with an objective of its own, learnt in one run."""

    tasks: dict[str, dict[str, Any]] = Field(
        ...,
        min_length=1,
        description="Task -> {objective, weight, share} and the settings of that objective; data.train names"
        " its files under the same name.",
    )
    balance: Literal["fixed", "uncertainty"] = Field(
        "fixed",
        description="How losses are weighed: by weight alone, or also by a learnt uncertainty of each task.",
    )
    balance_rate: float = Field(
        10.0, gt=0.0, description="uncertainty: its learning rate, as a multiple of train.learning_rate."
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        """``support: sft`` stands for ``support: {objective: sft}``."""
        if not isinstance(value, dict):
            return value
        return {task: {"objective": v} if isinstance(v, str) else v for task, v in value.items()}

    @field_validator("tasks")
    @classmethod
    def _sound(cls, tasks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for task, values in tasks.items():
            if not NAME.fullmatch(task) or task == TAKEN:
                raise ValueError(
                    f"{task!r} is no name for a task: it must begin with a letter and hold letters, digits,"
                    f" _ and - only, and {TAKEN!r} is taken"
                )
            section = build(TaskSection, values, where=f"task {task!r}")
            if section.objective in APART:
                raise ValueError(
                    f"task {task!r}: objective {section.objective!r} is several objectives itself; name one"
                )
            _ = section.options  # raises with the nearest names
        return tasks

    @model_validator(mode="after")
    def _rate_is_read(self) -> Self:
        if self.balance == "fixed" and self.balance_rate != type(self).model_fields["balance_rate"].default:
            raise ValueError("balance_rate is read with balance 'uncertainty' only")
        return self

    @property
    def plans(self) -> dict[str, TaskSection]:
        """The section of each task, in the order in which they are written."""
        return {task: build(TaskSection, v, where=f"task {task!r}") for task, v in self.tasks.items()}
