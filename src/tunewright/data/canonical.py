"""The form of prepared rows. Reading a written row gives an equal example, ``meta`` included."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import orjson

from tunewright.core.records import Example, Labelled, Message, Meta, Preference, Prompt, Ranking, Text

_META = tuple(field.name for field in dataclasses.fields(Meta))


def to_row(example: Example) -> dict[str, Any]:
    """One example as a row of its format: ``text``, ``chat_label``, ``preference`` … or ``messages``."""
    meta = {"meta": _meta(example.meta)}
    if isinstance(example, Text):
        return {"text": example.text, **meta}
    if isinstance(example, Labelled):
        return {"messages": _turns(example.messages), "label": example.label, **meta}
    tools = {"tools": list(example.tools)} if example.tools else {}
    if isinstance(example, Preference):
        sides = {name: _turns(getattr(example, name)) for name in ("prompt", "chosen", "rejected")}
        margin = {} if example.margin is None else {"margin": example.margin}
        return {**sides, **margin, **tools, **meta}
    if isinstance(example, Ranking):
        answers = [_turns(answer) for answer in example.answers]
        scores = list(example.scores)
        return {"prompt": _turns(example.prompt), "answers": answers, "scores": scores, **tools, **meta}
    if isinstance(example, Prompt):
        return {"prompt": _turns(example.messages), "fields": example.fields, **tools, **meta}
    return {"messages": _turns(example.messages), **tools, **meta}


def to_jsonl(examples: Iterable[Example]) -> bytes:
    """JSON lines of examples, the same bytes for the same examples."""
    return b"".join(orjson.dumps(to_row(example)) + b"\n" for example in examples)


def _turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    return [m.to_dict() if m.weight is None else {**m.to_dict(), "weight": m.weight} for m in messages]


def _meta(meta: Meta) -> dict[str, Any]:
    return {name: value for name in _META if (value := getattr(meta, name)) is not None}
