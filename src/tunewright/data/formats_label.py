"""Formats of rows with a label: a class, several classes, a number, or liked / not liked."""

from __future__ import annotations

from typing import Any

from tunewright.core.records import Example, Labelled, Message, Meta
from tunewright.data.columns import kind
from tunewright.data.formats_parts import (
    ANSWERS,
    Row,
    answer_of,
    key_of,
    number_of,
    prompt_of,
    text_of,
    with_system,
)
from tunewright.data.messages import Repairs, ending_in_answer, read_turns
from tunewright.data.problems import BadRow

LABELS = ("label", "labels", "category", "class", "intent", "target")
JUDGED = ("label", "kto_tag")


def label_of(row: Row, names: tuple[str, ...]) -> Any:
    """The label as it stands: text, number, true / false, or a list of texts as a tuple."""
    key = key_of(row, names)
    label = row.get(key)
    if isinstance(label, list):
        if not all(isinstance(item, str) and item.strip() for item in label):
            raise BadRow("wrong_type", f"{key} must be a list of texts; an empty list says none of them")
        return tuple(label)
    if label is None or (isinstance(label, str) and not label.strip()):
        raise BadRow("empty_label", f"{key} is empty")
    if not isinstance(label, (str, int, float)):
        raise BadRow("wrong_type", f"{key} is {kind(label)}, not a label")
    return label


def _liked(row: Row) -> bool:
    label = label_of(row, JUDGED)
    if isinstance(label, str) and label.lower() in ("true", "false"):
        return label.lower() == "true"
    if not isinstance(label, bool):
        raise BadRow("wrong_type", f"the label of an answer must be true or false, not {kind(label)}")
    return label


def kto(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """A prompt, an answer, and whether it was liked."""
    prompt = prompt_of(row, "prompt", repairs)
    key = key_of(row, ANSWERS)
    return Labelled((*prompt, *answer_of(row.get(key), key, prompt, repairs)), _liked(row), meta)


def labelled_chat(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """A chat with a label; true / false judges its last answer, any other label describes the chat."""
    key = "messages" if "messages" in row else "conversations"
    turns = with_system(row, read_turns(row[key], key, repairs))
    label = _liked(row) if "kto_tag" in row else label_of(row, JUDGED)
    if isinstance(label, bool):
        turns = ending_in_answer(turns, repairs)
    return Labelled(turns, label, meta)


def labelled_text(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """A boolean label is a class here; as a bool it would mean that an answer was liked."""
    label = label_of(row, LABELS)
    if isinstance(label, bool):
        label = str(label).lower()
    return Labelled((Message("user", text_of(row, "text", "empty_text")),), label, meta)


def scored_text(row: Row, meta: Meta, repairs: Repairs) -> Example:
    """A number per text. A table may hold it as text."""
    text = text_of(row, "text", "empty_text")
    return Labelled((Message("user", text),), number_of(row["score"], "score"), meta)
