"""Messages as a chat template knows them: roles it lacks are given to roles it has, and that is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunewright.core.errors import RenderError
from tunewright.core.records import ROLES, Message
from tunewright.data.template import ChatTemplate

DEVELOPER_NOTE = "the chat template has no developer role; developer messages are given as system messages"
SYSTEM_NOTE = "the chat template has no system role; system text is put before the first user turn"


def fit_roles(messages: Sequence[Message], template: ChatTemplate) -> tuple[list[Message], list[str]]:
    """Messages that ``template`` can write in full, and notes on what was changed.

    Raises ``RenderError`` for an unknown role, or system text that has no user turn to go to.
    """
    for message in messages:
        if message.role not in ROLES:
            raise RenderError(f"unknown role {message.role!r}; known: {', '.join(ROLES)}")
    fitted, notes = list(messages), []
    if not template.keeps_developer and any(m.role == "developer" for m in fitted):
        notes.append(DEVELOPER_NOTE)
        fitted = [replace(m, role="system") if m.role == "developer" else m for m in fitted]
    if not template.keeps_system and fitted and fitted[0].role == "system":
        notes.append(SYSTEM_NOTE)
        fitted = _folded(fitted)
    return fitted, notes


def _folded(messages: list[Message]) -> list[Message]:
    """System text put before the first user turn, for templates without a system role."""
    count = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    if count == len(messages) or messages[count].role != "user":
        raise RenderError(
            "the chat template has no system role, and there is no user turn after the system text to put it "
            "into; add a user turn"
        )
    if any(m.weight for m in messages[:count]):
        raise RenderError(
            "the chat template has no system role, so a system message cannot have a loss weight"
        )
    text = "\n\n".join([*(m.content for m in messages[:count]), messages[count].content])
    return [replace(messages[count], content=text), *messages[count + 1 :]]
