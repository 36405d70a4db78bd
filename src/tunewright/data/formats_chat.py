"""Formats of rows to learn writing from: chats, questions with their answer, and documents."""

from __future__ import annotations

from tunewright.core.records import Conversation, Example, Message, Meta, Text
from tunewright.data.formats_parts import (
    ANSWERS,
    Row,
    answer_of,
    key_of,
    opening,
    prompt_of,
    text_of,
    tools_of,
    with_system,
)
from tunewright.data.messages import Repairs, ending_in_answer, read_turns


def messages(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """OpenAI's ``messages`` or ShareGPT's ``conversations``."""
    key = "messages" if "messages" in row else "conversations"
    turns = with_system(row, read_turns(row[key], key, repairs))
    return Conversation(ending_in_answer(turns, repairs), meta, tools_of(row))


def alpaca(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """``instruction`` and ``output``."""
    answer = text_of(row, "output", "empty_answer")
    return Conversation((*opening(row, "instruction"), Message("assistant", answer)), meta)


def prompt_completion(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """``prompt`` and ``completion`` or ``response``."""
    prompt = prompt_of(row, "prompt", repairs)
    key = key_of(row, ANSWERS)
    return Conversation((*prompt, *answer_of(row.get(key), key, prompt, repairs)), meta, tools_of(row))


def question_answer(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """``question`` and ``answer``."""
    answer = text_of(row, "answer", "empty_answer")
    return Conversation((*opening(row, "question"), Message("assistant", answer)), meta)


def document(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """``text`` alone."""
    return Text(text_of(row, "text", "empty_text"), meta)
