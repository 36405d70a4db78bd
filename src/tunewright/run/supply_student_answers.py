"""Supplies the answers that the student of an on-policy distillation writes itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunewright.core.errors import ConfigError
from tunewright.core.records import Tokens
from tunewright.evaluate.runner import CEILING, HEADROOM
from tunewright.models.generate import Sampling
from tunewright.models.save import own_stop_ids
from tunewright.objectives.distill import Distillation
from tunewright.objectives.sampler import TransformersSampler
from tunewright.objectives.student_answers import StudentAnswers, asked
from tunewright.run.compose import context_of
from tunewright.run.ready import Ready
from tunewright.run.session import Session
from tunewright.run.supply import Supply
from tunewright.run.teaching import teacher_of

SPARE = 8  # tokens beyond the longest answer, so that a student that goes on is seen to go on


def check(session: Session, ready: Ready) -> None:
    """Raise ``ConfigError`` where no row has a question for the student."""
    longest_answer(ready.sequences.train)


def supply(session: Session, ready: Ready, given: Supply) -> Supply:
    """The source that lets the student answer a share of the rows."""
    recipe, parts, objective = session.recipe, ready.parts, given.objective
    assert isinstance(objective, Distillation), f"{type(objective).__name__} has no student"
    new = longest_answer(given.train)
    sampling = Sampling(
        max_new_tokens=new,
        temperature=1.0,
        stop_ids=parts.renderer.stop_ids | own_stop_ids(parts.loaded.model),
    )
    sampler = TransformersSampler(given.model, sampling, parts.renderer.decode, recipe.evaluate.batch_size)
    room = (
        recipe.data.max_length,
        context_of(parts.loaded),
        context_of(teacher_of(session, parts, objective).loaded),
    )
    draw = (objective.options.on_policy, recipe.train.seed)
    session.note([f"the student writes at most {new} tokens itself, a quarter over the longest answer"])
    return replace(given, source=StudentAnswers(given.train, given.model, sampler, draw, min(room)))


def longest_answer(sequences: Sequence[Tokens]) -> int:
    """Tokens that the student may write: a quarter more than the longest answer there is, as in judging.

    Raises ``ConfigError`` where no row has a question and an answer.
    """
    found = [(tokens, prompt) for tokens in sequences if (prompt := asked(tokens))]
    if not found:
        raise ConfigError(
            "objective.on_policy: no training row has a question that the student could answer; give"
            " conversations, or leave on_policy out"
        )
    longest = max(len(tokens.ids) - len(prompt.ids) for tokens, prompt in found)
    return min(int(longest * HEADROOM) + SPARE, CEILING)
