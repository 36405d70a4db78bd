"""Judging a student: as any model that writes answers, and beside its teacher, asked the same questions.

The teacher is there to be compared with, not to be beaten: no verdict comes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tunewright.core.records import Example, Text
from tunewright.evaluate.metrics import METRICS
from tunewright.evaluate.runner import Answers, Evaluator, reading
from tunewright.run import asking, judge_answers
from tunewright.run.compose import Parts
from tunewright.run.judges import JudgeKind
from tunewright.run.session import Session
from tunewright.run.teacher_text import check_questions
from tunewright.run.teaching import distillations, teacher_of

TEACHER = "teacher"


def teacher(
    session: Session, parts: Parts, judge: Evaluator, train: Sequence[Example]
) -> Callable[[], Answers]:
    """The teacher, asked with its own tokenizer and template.

    Metrics per token are left out where it reads other tokens than the student.
    """
    [objective] = distillations(parts.objective).values()
    found, section = teacher_of(session, parts, objective), session.recipe.evaluate
    loaded = found.loaded
    check_questions(found, [q.example for q in judge.questions if not isinstance(q.example, Text)])
    auto = session.resolved.sources["evaluate.max_new_tokens"].startswith("auto")
    new = asking.longest(loaded, judge.questions)[0] if auto else judge.sampling.max_new_tokens
    how = asking.Asking(judge.metrics, new, judge.piece, section.batch_size, judge.micro_tokens)
    evaluator = asking.evaluator(loaded, judge.questions, how, session.observe)
    if not _read_alike(judge, evaluator):
        per_token = [name for name in judge.metrics if METRICS[name].needs == "logprobs"]
        session.note(
            f"{name} is per token, and the teacher reads other tokens: no {name} of it" for name in per_token
        )
        rest = [name for name in judge.metrics if name not in per_token]
        evaluator = asking.evaluator(loaded, judge.questions, replace(how, metrics=rest), session.observe)
    return lambda: evaluator(teacher_of(session, parts, objective).loaded.model)


def _read_alike(judge: Evaluator, other: Evaluator) -> bool:
    """Whether both read every answer as the same number of tokens, or nothing measured depends on it."""
    if all(METRICS[name].needs != "logprobs" for name in judge.metrics):
        return True
    counts = [
        [sum(t.trained for t in reading(e.renderer, q, e.piece)) for q in judge.questions]
        for e in (judge, other)
    ]
    return counts[0] == counts[1]


KIND = JudgeKind(
    judge_answers.suggest,
    judge_answers.make,
    {**judge_answers.KIND.baselines, TEACHER: teacher},
    ("zero_shot", TEACHER),
    beside=frozenset({TEACHER}),
    writes=True,
)
