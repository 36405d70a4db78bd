"""What the formats are read with: texts, numbers, prompts and answers out of the columns of a row.

Everything raises ``BadRow`` with a reason code of ``problems.RULES`` for a value that it cannot read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from tunewright.core.hashing import canonical_json
from tunewright.core.records import Message
from tunewright.data.columns import kind
from tunewright.data.messages import Repairs, ending_in_answer, read_tools, read_turns
from tunewright.data.problems import BadRow
from tunewright.data.strict import shown

Row = dict[str, Any]
TURNS = ("messages", "conversations")
PROMPTS = ("prompt", "instruction", "question")
ANSWERS = ("completion", "response")
OPENING = ("system", "input", "history")


def key_of(row: Row, names: tuple[str, ...]) -> str:
    """The first of ``names`` that the row has a value for, or else the first that it has at all."""
    present = [name for name in names if name in row] or [names[0]]
    return next((name for name in present if row.get(name) is not None), present[0])


def text_of(row: Row, key: str, empty: str) -> str:
    """A required text; ``empty`` is the reason code for one without characters."""
    value = row.get(key)
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"{key} is {kind(value)}, not text")
    if not value or value.isspace():
        raise BadRow(empty, f"{key} has no text")
    return value


def optional_text(row: Row, key: str) -> str:
    """A text that may be missing or null."""
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise BadRow("wrong_type", f"{key} is {kind(value)}, not text")
    return value or ""


def number_of(value: Any, name: str) -> float:
    """A finite number; a table may hold it as text."""
    try:
        number = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        given = shown(value) if isinstance(value, (str, float)) else kind(value)
        raise BadRow("wrong_type", f"{name} is {given}, not a finite number")
    return number


def tools_of(row: Row) -> tuple[dict[str, Any], ...]:
    """The tools of a row, none if it has no such column."""
    return read_tools(row.get("tools"))


def opening(row: Row, key: str) -> tuple[Message, ...]:
    """System turn, history and question of a row that names them by columns."""
    question = text_of(row, key, "empty_turn")
    if "input" in row:
        added = optional_text(row, "input")
        question = f"{question}\n\n{added}" if added.strip() else question
    system = optional_text(row, "system") if "system" in row else ""
    turns = [Message("system", system)] if system.strip() else []
    return (*turns, *_history(row.get("history")), Message("user", question))


def _history(pairs: Any) -> list[Message]:
    """Alpaca's earlier turns: a list of [question, answer]."""
    turns = []
    for pair in pairs or ():
        texts = isinstance(pair, list) and all(isinstance(text, str) and text.strip() for text in pair)
        if not texts or len(pair) != 2:
            raise BadRow("wrong_type", "history must be a list of [question, answer] texts")
        turns += [Message("user", pair[0]), Message("assistant", pair[1])]
    return turns


def with_system(row: Row, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """ShareGPT files may hold the system turn in a column of its own."""
    system = optional_text(row, "system") if "system" in row else ""
    if system.strip() and turns[0].role == "system":
        raise BadRow("wrong_format", "a system column and a system turn; keep one")
    return (Message("system", system), *turns) if system.strip() else turns


def is_turns(row: Row, key: str) -> bool:
    """Whether the prompt under ``key`` is given as turns and not as text."""
    return key in TURNS or isinstance(row.get(key), list)


def prompt_of(row: Row, key: str, repairs: Repairs) -> tuple[Message, ...]:
    """A prompt given as text or as turns."""
    if is_turns(row, key):
        return with_system(row, read_turns(row.get(key), key, repairs))
    return opening(row, key)


def answer_of(value: Any, name: str, prompt: tuple[Message, ...], repairs: Repairs) -> tuple[Message, ...]:
    """An answer given as text, as one turn, or as turns (which may repeat the prompt)."""
    turns: tuple[Message, ...]
    if value is None or isinstance(value, str):
        turns = (Message("assistant", text_of({name: value}, name, "empty_answer")),)
    else:
        turns = read_turns([value] if isinstance(value, dict) else value, name, repairs)
    if prompt[-1].role == "assistant":
        raise BadRow("prompt_answered", f"the prompt ends in an assistant turn, before {name}")
    if turns[: len(prompt)] == prompt:
        turns = turns[len(prompt) :]
    if not turns or turns[0].role != "assistant":
        raise BadRow("no_answer", f"{name} does not begin with an assistant turn")
    return ending_in_answer(turns, repairs)


def said(turns: Iterable[Message]) -> bytes:
    """Equal for turns that say the same, white space at the ends of a turn aside."""
    return canonical_json([[turn.role, turn.content.strip(), turn.extra] for turn in turns])
