"""Replies read strictly: one JSON object of the form that was asked for, or ``Malformed``.

A block of code around it, and thoughts in ``<think>`` before it, are the only things that are passed over.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL)


class Malformed(Exception):
    """A reply that is not of the form; the text says why and never repeats the reply."""


def pairs_of(reply: str, most: int) -> list[tuple[str, str]]:
    """Questions with their answers."""
    items = _list(reply, "pairs", most)
    return [(pair["question"], pair["answer"]) for pair in (_texts(i, ("question", "answer")) for i in items)]


def paraphrases_of(reply: str, most: int) -> list[str]:
    """Texts."""
    return [_text(item, "paraphrases") for item in _list(reply, "paraphrases", most)]


def negative_of(reply: str) -> str:
    """The worse answer; its flaw must be named, too."""
    return _texts(_object(reply), ("answer", "flaw"))["answer"]


def near_miss_of(reply: str) -> str:
    """The text."""
    return _texts(_object(reply), ("text",))["text"]


def _object(reply: str) -> Any:
    text = _THOUGHT.sub("", reply, count=1).strip()
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1]
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Malformed("it is no JSON" if text else "it is empty") from None


def _list(reply: str, key: str, most: int) -> list[Any]:
    found = _object(reply)
    if not isinstance(found, dict) or found.keys() != {key} or not isinstance(found[key], list):
        raise Malformed(f"it is no object with a list {key!r} and nothing else")
    if not 0 < len(found[key]) <= most:
        raise Malformed(f"it has {len(found[key])} {key}, from 1 to {most} were asked for")
    return found[key]


def _texts(found: Any, keys: tuple[str, ...]) -> dict[str, str]:
    if not isinstance(found, dict) or found.keys() != set(keys):
        raise Malformed(f"it is no object with {' and '.join(keys)} and nothing else")
    return {key: _text(found[key], key) for key in keys}


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Malformed(f"{key} is no text, or empty")
    return value.strip()
