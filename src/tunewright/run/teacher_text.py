"""A teacher that writes: its answers take the place of those in the rows, and are what the student learns.

They are written greedily, in pieces of ``PIECE`` rows, to a file in the run directory. A piece counts once
it is whole, so a killed run loses at most one, and a resumed run asks in the same pieces: the same bits.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tunewright.core.errors import ConfigError, DataError, RunError
from tunewright.core.events import Progress
from tunewright.core.hashing import digest, file_digest
from tunewright.core.paths import written_atomically
from tunewright.core.records import Conversation, Example, Message, Tokens, as_conversation
from tunewright.evaluate.runner import longest_answer, questions
from tunewright.models.generate import Sampling, generate
from tunewright.models.save import own_stop_ids
from tunewright.objectives.multi import of_task
from tunewright.run.compose import context_of
from tunewright.run.encode import Sequences, encode_splits
from tunewright.run.ready import Ready
from tunewright.run.session import Session
from tunewright.run.supply import Supply
from tunewright.run.tasks import parts_of, session_of
from tunewright.run.teaching import Teacher, rows_of

PIECE = 64


@dataclass(frozen=True)
class Written:
    """One answer. ``prompt`` is the hash of what the teacher read; ``cut``: it ran out of room."""

    source: str
    line: int
    prompt: str
    answer: str
    cut: bool

    @property
    def usable(self) -> bool:
        """Whether it is a whole answer that says something."""
        return bool(self.answer.strip()) and not self.cut


def check_questions(teacher: Teacher, rows: Sequence[Example]) -> list[list[int]]:
    """The prompt of every row as the teacher reads it: all before the last assistant turn.

    Raises ``ConfigError`` for a row without one, or one that leaves the teacher no room.
    """
    room, prompts = context_of(teacher.loaded), []
    for row in rows:
        if as_conversation(row) is None:
            raise ConfigError(
                f"{row.meta.where()} is a document: there is no question that the teacher could answer, so"
                " vocabulary=text has no meaning; use vocabulary=auto"
            )
    for question in questions(rows):
        prompts.append(teacher.renderer.prompt(question.prompt, question.tools))
        if len(prompts[-1]) > room:
            raise ConfigError(
                f"the teacher {teacher.loaded.ref.name} reads at most {room} tokens, but the prompt of"
                f" {question.where} takes {len(prompts[-1])}; choose a teacher with a longer context, or"
                " remove the row"
            )
    return prompts


def with_answers(
    session: Session, ready: Ready, given: Supply, asked: tuple[Teacher, str]
) -> tuple[Supply, dict[str, Any]]:
    """``given`` with the answers of the teacher in the rows of a task; and what to report of them.

    Raises ``DataError`` if no answer is of use.
    """
    teacher, task = asked
    sides = [rows_of(rows, task) for rows in (ready.splits.train, ready.splits.validation)]
    rows = [row for side in sides for row in side]
    path = session.run.root / (f"teacher-{task}.jsonl" if task else "teacher.jsonl")
    written = _written(session, teacher, rows, path)
    kept = [[_answered(r, w) for r, w in part if w.usable] for part in _sides(rows, written, len(sides[0]))]
    _report(session, written, teacher)
    if not kept[0]:
        raise DataError(f"the teacher {teacher.loaded.ref.name} gave no usable answer to any training row")
    sequences = _encoded(session, ready, kept, task)
    facts = {
        "file": path.name,
        "sha256": file_digest(path),
        "rows": len(written),
        "kept": sum(w.usable for w in written),
        "cut": sum(w.cut for w in written),
    }
    train = [*_others(given.train, task), *sequences.train]
    validation = [*_others(given.validation, task), *sequences.validation]
    return replace(given, train=train, validation=validation), facts


def _encoded(session: Session, ready: Ready, kept: Sequence[Sequence[Example]], task: str) -> Sequences:
    """The rows of a task, rendered, with what was cut or empty said aloud as for any rows."""
    splits = replace(ready.splits, train=list(kept[0]), validation=list(kept[1]))
    if not task:
        return encode_splits(ready.parts, session, splits)
    found = encode_splits(parts_of(ready.parts, task), session_of(session, task), splits)
    return replace(found, train=of_task(found.train, task), validation=of_task(found.validation, task))


def _written(session: Session, teacher: Teacher, rows: Sequence[Example], path: Path) -> list[Written]:
    """The answers to all rows; those of whole pieces on disk are not asked for again."""
    prompts = check_questions(teacher, rows)
    done = _read(path, rows, prompts)
    room, why = longest_answer(teacher.renderer, questions(rows), context_of(teacher.loaded))
    session.note([f"the teacher may write {room} tokens for an answer: {why}"])
    ends = teacher.renderer.stop_ids | own_stop_ids(teacher.loaded.model)
    for start in range(len(done), len(rows), PIECE):
        piece = slice(start, start + PIECE)
        found = generate(
            teacher.loaded.model,
            prompts[piece],
            Sampling(max_new_tokens=room, stop_ids=ends),
            batch_size=session.recipe.evaluate.batch_size,
        )
        answers = [
            Written(
                row.meta.source, row.meta.line, digest(prompt), teacher.renderer.decode(g.ids), not g.finished
            )
            for row, prompt, g in zip(rows[piece], prompts[piece], found, strict=True)
        ]
        _append(path, answers)
        done += answers
        session.observe(Progress("teacher", len(done), len(rows)))
    return done


def _read(path: Path, rows: Sequence[Example], prompts: Sequence[Sequence[int]]) -> list[Written]:
    """The answers of all whole pieces on disk; what a crash left of another is cut off.

    Raises ``RunError`` if they answer other prompts.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    whole = len([line for line in lines if line.endswith(b"\n")])
    whole -= whole % PIECE if whole < len(rows) else 0
    try:
        done = [Written(**json.loads(line)) for line in lines[:whole]]
    except (ValueError, TypeError):
        raise RunError(f"{path} is damaged; delete it and go on with `tunewright resume`") from None
    if [w.prompt for w in done] != [digest(prompt) for prompt in prompts[: len(done)]]:
        raise RunError(f"{path} answers other prompts than those of this run; start the run again")
    if len(lines) > whole:
        with written_atomically(path) as temporary:
            temporary.write_bytes(b"".join(lines[:whole]))
    return done


def _append(path: Path, answers: Sequence[Written]) -> None:
    text = "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
    with path.open("ab") as f:
        f.write(text.encode("utf-8"))
        f.flush()
        os.fsync(f.fileno())


def _answered(row: Example, written: Written) -> Conversation:
    """``row`` with the teacher's answer; what other assistants said before is context."""
    conversation = as_conversation(row)
    assert conversation is not None, "documents were refused"
    *before, last = conversation.messages
    context = [replace(m, weight=0.0) if m.role == "assistant" else m for m in before]
    answer = Message("assistant", written.answer, last.weight)
    return Conversation((*context, answer), conversation.meta, conversation.tools)


def _sides(
    rows: Sequence[Example], written: Sequence[Written], train: int
) -> list[list[tuple[Example, Written]]]:
    both = list(zip(rows, written, strict=True))
    return [both[:train], both[train:]]


def _report(session: Session, written: Sequence[Written], teacher: Teacher) -> None:
    cut = sum(w.cut for w in written)
    empty = sum(not w.cut and not w.usable for w in written)
    for count, what in ((cut, "were cut before they ended"), (empty, "are empty")):
        if count:
            session.warn(
                f"{count} of {len(written)} answers of the teacher {teacher.loaded.ref.name} {what}; their"
                " rows are left out of training"
            )


def _others(sequences: Sequence[Tokens], task: str) -> list[Tokens]:
    return [tokens for tokens in sequences if tokens.task != task]
