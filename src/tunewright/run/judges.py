"""How the result of each kind of objective is judged: which metrics, against which baselines, by whom.

To add a kind: a module with a ``JudgeKind`` and a line in ``JUDGES``. An objective names its own: ``judged``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tunewright.core.errors import ConfigError
from tunewright.core.events import Observer
from tunewright.core.names import Registry, nearest
from tunewright.core.records import Example
from tunewright.evaluate.runner import Answers, Question
from tunewright.models.load import Loaded
from tunewright.objectives.base import Objective
from tunewright.run.compose import Parts
from tunewright.run.judging import Settled
from tunewright.run.session import Session


class Judge(Protocol):
    """Scores a model on one set of rows; ``evaluate.runner.Evaluator`` is the judge of written answers."""

    @property
    def questions(self) -> Sequence[Question]:
        """The rows, with what to show of them."""
        ...

    @property
    def metrics(self) -> Sequence[str]:
        """Names of what is measured, the deciding one first."""
        ...

    def __call__(self, model: Any) -> Answers:
        """The scores of ``model``, one entry per row and metric."""
        ...

    def remarks(self, answers: Answers) -> list[str]:
        """What the user should be warned of in these answers."""
        ...


Baseline = Callable[[Session, Parts, Any, Sequence[Example]], Callable[[], Answers]]
"""(session, parts, judge, training rows) -> what scores the baseline; what can fail early fails here."""


@dataclass(frozen=True)
class JudgeKind:
    """One way of judging.

    ``suggest(rows)`` gives the metrics for ``auto`` with the reason; ``make(session, parts, rows, metrics)``
    the judge. ``baselines`` are what a result can be compared with, by name; ``usual`` those of ``auto``.

    ``refine(metrics, objective)`` adds to the suggestion what the objective's settings call for;
    ``calibrate(session, parts, validation rows, model)`` is called once after training, before the model is
    saved; ``of_model(loaded, rows, settings, observe)`` makes the judge of a model that was saved, which
    knows the metrics ``measures``. No verdict comes from the baselines ``beside``: they are compared with,
    not to be beaten. ``writes`` says that answers are generated, so that their length must be settled.
    """

    suggest: Callable[[Sequence[Example]], tuple[list[str], str]]
    make: Callable[[Session, Parts, Sequence[Example], Sequence[str]], Judge]
    baselines: Mapping[str, Baseline]
    usual: tuple[str, ...]
    refine: Callable[[list[str], Any], list[str]] = lambda names, objective: names
    calibrate: Callable[[Session, Parts, Sequence[Example], Any], None] | None = None
    measures: frozenset[str] = frozenset()
    of_model: Callable[[Loaded, Sequence[Example], Settled, Observer], Judge] | None = None
    beside: frozenset[str] = frozenset()
    writes: bool = False
    bound: Callable[[Any], JudgeKind] | None = None

    def check_baselines(self, names: Sequence[str]) -> None:
        """Raise ``ConfigError`` for a baseline that this kind of result cannot be compared with."""
        for name in names:
            if name not in self.baselines:
                raise ConfigError(
                    f"evaluate.baselines: {name!r} does not suit this objective."
                    f" {nearest(name, self.baselines)}"
                )


JUDGES: Registry[JudgeKind] = Registry(
    "kind of judge",
    {
        "answers": "tunewright.run.judge_answers:KIND",
        "distilled": "tunewright.run.judge_distilled:KIND",
        "labels": "tunewright.run.judge_labels:KIND",
        "numbers": "tunewright.run.judge_numbers:KIND",
        "preferences": "tunewright.run.judge_preferences:KIND",
        "scores": "tunewright.run.judge_scores:KIND",
        "rewards": "tunewright.run.judge_rewards:KIND",
        "tasks": "tunewright.run.judge_tasks:KIND",
    },
)


def kind_for(objective: Objective) -> JudgeKind:
    """How the result of ``objective`` is judged."""
    kind = JUDGES[objective.judged]
    return kind.bound(objective) if kind.bound else kind


HEADS = {"classify": "labels", "regress": "numbers", "reward": "scores"}  # task of a head -> kind of judge
