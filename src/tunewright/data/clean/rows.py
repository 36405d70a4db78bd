"""One row through all filters, until none has anything left to change."""

from __future__ import annotations

from dataclasses import replace

from tunewright.core.records import Conversation, Example, Message, Preference, Ranking, Text
from tunewright.data.clean.filters import FILTERS
from tunewright.data.clean.outcome import Change, Drop, Keep, Outcome
from tunewright.data.clean.parts import Turns
from tunewright.data.clean.settings import CleanSettings

ROUNDS = 4


def clean(example: Example, settings: CleanSettings) -> Outcome:
    """``example`` cleaned, with what was changed and noted; or the reason to leave it out.

    Cleaning what was cleaned changes nothing. One filter may uncover work for another (an entity that is a
    zero-width space), so that the filters run again while something changes. A row that is still not settled
    after ``ROUNDS`` rounds is left as it was, and noted.
    """
    current, changes = example, list[Change]()
    for _ in range(ROUNDS):
        outcome = _once(current, settings)
        if isinstance(outcome, Drop):
            return outcome
        if not outcome.changes:
            return Keep(current, tuple(_first_of_each(changes)), outcome.notes)
        changes += outcome.changes
        whole = _still_whole(outcome.example)
        if isinstance(whole, Drop):
            return whole
        current = whole
    return Keep(example, notes=(("unsettled", f"still changing after {ROUNDS} rounds"),))


def _once(example: Example, settings: CleanSettings) -> Outcome:
    changes: tuple[Change, ...] = ()
    notes: tuple[Change, ...] = ()
    for name, steps, run in FILTERS:
        step = settings.steps.get(name, steps[0])
        if step == "off":
            continue
        outcome = run(example, step)
        if isinstance(outcome, Drop):
            return outcome
        if outcome.changes or outcome.notes:
            example = outcome.example
            changes += outcome.changes
            notes += outcome.notes
    return Keep(example, changes, notes)


def _first_of_each(changes: list[Change]) -> list[Change]:
    return list(dict(reversed(changes)).items())[::-1]


def _still_whole(example: Example) -> Example | Drop:
    """What the reader promises holds for a cleaned row, too: turns have text, and answers differ."""
    if isinstance(example, Text):
        return example if example.text.strip() else Drop("empty_text", "nothing was left of it when cleaned")
    if isinstance(example, Preference):
        groups: tuple[Turns, ...] = (example.prompt, example.chosen, example.rejected)
    elif isinstance(example, Ranking):
        groups = (example.prompt, *example.answers)
    else:
        groups = (example.messages,)
    kept = tuple(tuple(m for m in turns if not _empty_system(m)) for turns in groups)
    for message in (m for turns in kept for m in turns):
        if message.role != "tool" and not message.content.strip() and "tool_calls" not in message.extra:
            reason = "empty_answer" if message.role == "assistant" else "empty_turn"
            return Drop(reason, f"nothing was left of a turn ({message.role}) when cleaned")
    if len(kept) > 1 and any(one == other for n, one in enumerate(kept[1:], 2) for other in kept[n:]):
        return Drop("equal_answers", "two answers are equal when cleaned")
    if kept == groups:
        return example
    if isinstance(example, Preference):
        return replace(example, prompt=kept[0], chosen=kept[1], rejected=kept[2])
    if isinstance(example, Ranking):
        return replace(example, prompt=kept[0], answers=kept[1:])
    if isinstance(example, Conversation):
        return replace(example, messages=kept[0])
    return replace(example, messages=kept[0])


def _empty_system(message: Message) -> bool:
    return message.role in ("system", "developer") and not message.content.strip()
