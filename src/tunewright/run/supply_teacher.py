"""Supplies the teacher of a distillation: asked live, asked once before training, or writing the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from tunewright.core.errors import ConfigError
from tunewright.core.events import Progress
from tunewright.core.paths import cache_dir
from tunewright.core.records import Tokens
from tunewright.data.lengths import longest
from tunewright.engine.batch import build_batch
from tunewright.engine.plan import micro_batches
from tunewright.models.forward import ModelForward
from tunewright.objectives.base import Batch, Objective
from tunewright.objectives.distill import Distillation
from tunewright.objectives.multi import MultiTask
from tunewright.objectives.teacher import LiveTeacher
from tunewright.objectives.teacher_cache import CachedTeacher
from tunewright.run.compose import context_of
from tunewright.run.ready import Ready
from tunewright.run.session import Session
from tunewright.run.supply import Supply
from tunewright.run.teacher_text import check_questions, with_answers
from tunewright.run.teaching import Teacher, check_unchanged, distillations, release, rows_of, teacher_of


class Lesson(NamedTuple):
    """One sequence as the student and as the teacher read it; the same where they share a vocabulary."""

    student: Tokens
    teacher: Tokens


def check(session: Session, ready: Ready) -> None:
    """Find out before anything is written what would fail later; raises ``ConfigError`` or ``DataError``."""
    for task, objective in distillations(ready.parts.objective).items():
        teacher = teacher_of(session, ready.parts, objective)
        if teacher.mode == "text":
            check_questions(
                teacher, [*rows_of(ready.splits.train, task), *rows_of(ready.splits.validation, task)]
            )
        else:
            lessons(ready, teacher, task, (*ready.sequences.train, *ready.sequences.validation))


def supply(session: Session, ready: Ready, given: Supply) -> Supply:
    """The objective with its teacher, or rows with the teacher's answers.

    A teacher that is not asked while the student trains is given back. Raises ``RunError`` for a resumed run
    whose teacher has changed.
    """
    for task, objective in distillations(ready.parts.objective).items():
        given = _taught(session, ready, given, task)
        release(objective)
    return given


def _taught(session: Session, ready: Ready, given: Supply, task: str) -> Supply:
    teacher = teacher_of(session, ready.parts, distillations(ready.parts.objective)[task])
    with session.stage("teacher", teacher.loaded.ref.name):
        facts: dict[str, Any] = {
            "name": teacher.loaded.ref.name,
            "vocabulary": teacher.mode,
            "identity": teacher.identity,
        }
        check_unchanged(session.run, task, facts)
        given = replace(given, facts={**given.facts, f"teacher {task}".strip(): facts})
        if teacher.mode == "text":
            given, facts["answers"] = with_answers(session, ready, given, (teacher, task))
            return replace(given, objective=_with(given.objective, task, teacher.objective))
        rows = lessons(ready, teacher, task, (*given.train, *given.validation))
        taught = teacher.objective.with_teacher(_asked(session, teacher, rows, facts["identity"]))
        return replace(given, objective=_with(given.objective, task, taught))


def lessons(ready: Ready, teacher: Teacher, task: str, sequences: Sequence[Tokens]) -> list[Lesson]:
    """``sequences`` of ``task``, training before validation, each as the student and as the teacher read it.

    Raises ``ConfigError`` for one that the teacher has no room for, or that the two read in different pieces.
    """
    own = [tokens for tokens in sequences if not task or tokens.task == task]
    found = [Lesson(t, t) for t in own] if teacher.mode == "same" else _read_twice(ready, teacher, task)
    assert [lesson.student.ids for lesson in found] == [t.ids for t in own], "other rows than were rendered"
    room = context_of(teacher.loaded)
    for _, tokens in found:
        if longest(tokens) > room:
            raise ConfigError(
                f"the teacher {teacher.loaded.ref.name} reads at most {room} tokens, but"
                f" {tokens.meta.where()} takes {longest(tokens)}; choose a teacher with a longer context,"
                " lower data.max_length, or remove such rows"
            )
    return found


def _read_twice(ready: Ready, teacher: Teacher, task: str) -> list[Lesson]:
    """Every row of ``task`` with something to learn, rendered for the student and for the teacher."""
    objective, found = ready.parts.objective, []
    for example in (*rows_of(ready.splits.train, task), *rows_of(ready.splits.validation, task)):
        student = objective.encode(example, ready.parts.renderer)
        theirs = objective.encode(example, teacher.renderer)
        if student and len(student) != len(theirs):
            raise ConfigError(
                f"{example.meta.where()}: the student reads this row in {len(student)} pieces and the teacher"
                f" in {len(theirs)}, so their tokens cannot be set side by side (vocabulary=uld); set"
                " data.train_on=last for chats, raise data.max_length for documents, or use vocabulary=text"
            )
        found += [Lesson(a, b) for a, b in zip(student, theirs, strict=False) if a.trained]
    return found


def _asked(
    session: Session, teacher: Teacher, rows: Sequence[Lesson], identity: str
) -> LiveTeacher | CachedTeacher:
    """The teacher as the loss sees it: live, or from the cache, filled with ``rows``."""
    objective, loaded = teacher.objective, teacher.loaded
    forward = ModelForward(loaded.model.eval(), compute=loaded.precision.dtype)
    live = LiveTeacher(forward, objective.asked)
    if not objective.cached:
        session.note(["the teacher is asked in every step, and stays in memory beside the student"])
        return live
    cached = CachedTeacher(cache_dir() / "teachers", identity, objective.asked)
    filled = cached.fill(_pairs(session, rows, forward.device), live)
    if filled.damaged:
        session.warn(
            f"{len(filled.damaged)} damaged file(s) of {cached.folder} were removed; what the teacher said"
            " there was computed again"
        )
    tokens = f"{filled.computed + filled.reused:,} tokens, {filled.reused:,} of them in earlier runs"
    session.note([f"the teacher was asked about {tokens}; what it says lies in {cached.folder}"])
    return cached


def _pairs(session: Session, rows: Sequence[Lesson], device: torch.device) -> Iterator[tuple[Batch, Batch]]:
    """``rows`` in batches, each as the student and as the teacher read it."""
    packs = micro_batches([row.student for row in rows], session.recipe.train.at_once)
    for done, pack in enumerate(packs, start=1):
        student = build_batch([rows[i].student for i in pack], pack, device)
        same = all(rows[i].student is rows[i].teacher for i in pack)
        yield student, student if same else build_batch([rows[i].teacher for i in pack], pack, device)
        session.observe(Progress("teacher", done, len(packs)))


def _with(objective: Objective, task: str, taught: Distillation) -> Objective:
    return objective.with_task(task, taught) if isinstance(objective, MultiTask) else taught
