"""What a tuned model has to beat: the untouched model, asked plainly and asked with examples."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.core.hashing import example_digest, unit_interval
from tunewright.core.records import Conversation, Example, Message, as_conversation

SYSTEM = ("system", "developer")


def choose_shots(train: Sequence[Example], count: int, seed: int) -> list[Conversation]:
    """``count`` training rows for the few-shot prompt: a seeded draw that avoids repeating an answer.

    Rows that were mixed in are no examples of the task.
    """
    main = (e for e in train if e.meta.mixed is None)
    pool = [c for e in main if (c := as_conversation(e)) is not None and c.messages[-1].role == "assistant"]
    pool.sort(key=lambda c: unit_interval(seed, "shot", example_digest(c)))
    first_of_each: dict[str, Conversation] = {}
    for candidate in pool:
        first_of_each.setdefault(candidate.messages[-1].content, candidate)
    varied = list(first_of_each.values())
    taken = {id(c) for c in varied}
    return [*varied, *(c for c in pool if id(c) not in taken)][:count]


def with_shots(shots: Sequence[Conversation], prompt: Sequence[Message]) -> list[Message]:
    """The shots as earlier turns, then the question; the question's own system message comes first."""
    system = [m for m in prompt if m.role in SYSTEM]
    turns = [m for shot in shots for m in shot.messages if m.role not in SYSTEM]
    return [*system, *turns, *(m for m in prompt if m.role not in SYSTEM)]
