"""Rendered rows for looking at: every token with its weight and role. Loads a tokenizer, never weights."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from tunewright.core.errors import DataError
from tunewright.core.records import (
    Example,
    Labelled,
    Preference,
    Prompt,
    Ranking,
    Text,
    Tokens,
    as_conversation,
)
from tunewright.data.load import read_examples
from tunewright.data.problems import Problem
from tunewright.data.render import Renderer
from tunewright.models.load import load_tokenizer


class Shown(NamedTuple):
    """``rows``: ``where`` and ``tokens`` as (text, weight, role), and ``part`` where a row has several.

    ``notes``: what to say about them.
    """

    rows: list[dict[str, Any]]
    notes: list[str]


def rendered_rows(file: str, model: str, n: int, train_on: Any, columns: dict[str, str] | None) -> Shown:
    """The first ``n`` usable rows, and how many unusable ones were passed over on the way to them."""
    tokenizer, template = load_tokenizer(model)
    renderer = Renderer(tokenizer, train_on=train_on)
    passed: list[Problem] = []
    found = []
    for example in islice(_usable(file, columns, passed), n):
        for part, tokens in parts_of(example, renderer):
            named = {"part": part} if part else {}
            found.append({"where": example.meta.where(), **named, "tokens": renderer.explain(tokens)})
    if not found:
        raise DataError(f"{file} has no usable row; see `tunewright data check {file}`")
    notes = [template] if template else []
    if passed:
        notes.append(
            f"{len(passed)} unusable row(s) passed over, the first at {passed[0].where()}:"
            f" {passed[0].reason}; see `tunewright data check {file}`"
        )
    return Shown(found, [*notes, *renderer.notes])


def parts_of(example: Example, renderer: Renderer) -> list[tuple[str, Tokens]]:
    """What a model reads of a row, each part with its name; a prompt stands before the answers that share it.

    A row without an answer (a prompt to be sampled from, a text with a label) is shown as what is read.
    """
    names = _answer_names(example)
    if names:
        [tokens] = renderer.branches(example)
        return [("prompt", tokens), *zip(names, tokens.branches, strict=True)]
    if isinstance(example, Text):
        return [("", tokens) for tokens in renderer.documents(example)]
    if isinstance(example, Prompt):
        ids = renderer.prompt(example.messages, example.tools)
        return [("prompt", Tokens(ids, [0.0] * len(ids)))]
    conversation = as_conversation(example)
    if conversation is not None:
        return [("", tokens) for tokens in renderer.conversation(conversation)]
    assert isinstance(example, Labelled)
    ids = renderer.reading(example.messages)
    return [(f"labelled {example.label!r}", Tokens(ids, [0.0] * len(ids)))]


def _answer_names(example: Example) -> list[str]:
    """The answers that a row judges, by name."""
    if isinstance(example, Preference):
        return ["chosen", "rejected"]
    if isinstance(example, Ranking):
        return [f"answer {i}, score {score:g}" for i, score in enumerate(example.scores, 1)]
    if isinstance(example, Labelled) and isinstance(example.label, bool):
        return ["liked" if example.label else "disliked"]
    return []


def _usable(file: str, columns: dict[str, str] | None, passed: list[Problem]) -> Iterator[Example]:
    """The examples of a file; rejected rows are put on ``passed``."""
    for item in read_examples(file, columns=columns):
        if not isinstance(item, Problem):
            yield item
        elif item.action == "rejected":
            passed.append(item)
