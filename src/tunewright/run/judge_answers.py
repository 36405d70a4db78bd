"""Judging written answers: the model is asked the questions of the test rows, or reads their documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from tunewright.core.records import Example
from tunewright.evaluate.runner import Answers, Evaluator, questions
from tunewright.run import asking
from tunewright.run.compose import Parts
from tunewright.run.judges import JudgeKind
from tunewright.run.session import Session

NO_MATTER = 32  # longest answer where no answer is generated


def suggest(rows: Sequence[Example]) -> tuple[list[str], str]:
    """The metrics that fit the reference answers, and why."""
    return asking.suggested(questions(rows))


def make(session: Session, parts: Parts, rows: Sequence[Example], metrics: Sequence[str]) -> Evaluator:
    """The judge that asks ``rows`` (or a seeded draw of them) as the recipe says."""
    recipe = session.recipe
    new = recipe.evaluate.max_new_tokens
    how = asking.Asking(
        metrics=metrics,
        max_new_tokens=NO_MATTER if new == "auto" else new,
        piece=recipe.data.max_length,
        batch_size=recipe.evaluate.batch_size,
        micro_tokens=recipe.train.at_once,
    )
    asked = asking.chosen(rows, recipe.evaluate.rows, recipe.train.seed, lambda text: session.note([text]))
    return asking.evaluator(parts.loaded, asked, how, session.observe)


def zero_shot(
    session: Session, parts: Parts, judge: Evaluator, train: Sequence[Example]
) -> Callable[[], Answers]:
    """The untouched model, asked as it is."""
    return partial(judge, parts.loaded.model)


def few_shot(
    session: Session, parts: Parts, judge: Evaluator, train: Sequence[Example]
) -> Callable[[], Answers]:
    """The untouched model with training rows as examples in the prompt."""
    recipe = session.recipe
    shots = asking.fitting_shots(judge, train, recipe.evaluate.shots, recipe.train.seed, session.warn)
    return partial(judge, parts.loaded.model, shots)


KIND = JudgeKind(suggest, make, {"zero_shot": zero_shot, "few_shot": few_shot}, ("zero_shot",), writes=True)
