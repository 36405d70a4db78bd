"""What an objective requires beside model and rows, supplied between attaching the adapter and training.

Each requirement has one supplier, a function ``(session, ready, supply) -> supply``. To add one: a module
with such a function and a line in ``SUPPLIERS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunewright.core.names import Registry
from tunewright.core.records import Tokens
from tunewright.models.forward import ModelForward
from tunewright.objectives.base import Objective, Source
from tunewright.run.ready import Ready
from tunewright.run.session import Session


@dataclass(frozen=True)
class Supply:
    """What the loop will train with. ``reference`` gives log p of the targets under the untouched model.

    ``facts`` are what ``result.json`` says about what was supplied, by name.
    """

    model: Any
    forward: ModelForward
    objective: Objective
    train: Sequence[Tokens]
    validation: Sequence[Tokens]
    task_metrics: Callable[[], dict[str, float]] | None = None
    source: Source | None = None
    reference: Callable[[Any], Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


Supplier = Callable[[Session, Ready, Supply], Supply]

SUPPLIERS: Registry[Supplier] = Registry(
    "requirement",
    {
        "reference": "tunewright.run.supply_reference:supply",
        "rollouts": "tunewright.run.supply_rollouts:supply",
        "student_answers": "tunewright.run.supply_student_answers:supply",
        "teacher": "tunewright.run.supply_teacher:supply",
    },
)


CHECKS: Registry[Callable[[Session, Ready], None]] = Registry(
    "check of a requirement",
    {
        "rollouts": "tunewright.run.supply_rollouts:check",
        "student_answers": "tunewright.run.supply_student_answers:check",
        "teacher": "tunewright.run.supply_teacher:check",
    },
)


def check_supplies(session: Session, ready: Ready) -> None:
    """Find out before a run begins what its suppliers would find later; raises what they would raise."""
    for name in sorted(ready.parts.objective.requires & set(CHECKS)):
        CHECKS[name](session, ready)


def supplied(session: Session, ready: Ready, supply: Supply) -> Supply:
    """``supply`` with everything that its objective requires; in the order of the names."""
    for name in sorted(supply.objective.requires):
        supply = SUPPLIERS[name](session, ready, supply)
    return supply
