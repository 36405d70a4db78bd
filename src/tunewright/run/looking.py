"""Rendered rows for looking at: every token with its weight and role. Loads a tokenizer, never weights."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from tunewright.core.errors import DataError
from tunewright.core.records import Example, Text, as_conversation
from tunewright.data.load import read_examples
from tunewright.data.problems import Problem
from tunewright.data.render import Renderer
from tunewright.models.load import load_tokenizer


class Shown(NamedTuple):
    """``rows``: ``where`` and ``tokens`` as (text, weight, role). ``notes``: what to say about them."""

    rows: list[dict[str, Any]]
    notes: list[str]


def rendered_rows(file: str, model: str, n: int, train_on: Any, columns: dict[str, str] | None) -> Shown:
    """The first ``n`` usable rows, and how many unusable ones were passed over on the way to them."""
    tokenizer, template = load_tokenizer(model)
    renderer = Renderer(tokenizer, train_on=train_on)
    passed: list[Problem] = []
    found = []
    for example in islice(_usable(file, columns, passed), n):
        if isinstance(example, Text):
            sequences = renderer.documents(example)
        else:
            conversation = as_conversation(example)
            if conversation is None:
                raise DataError(
                    f"{example.meta.where()}: preference rows are not shown yet; give conversations or text"
                )
            sequences = renderer.conversation(conversation)
        found += [{"where": example.meta.where(), "tokens": renderer.explain(tokens)} for tokens in sequences]
    if not found:
        raise DataError(f"{file} has no usable row; see `tunewright data check {file}`")
    notes = [template] if template else []
    if passed:
        notes.append(
            f"{len(passed)} unusable row(s) passed over, the first at {passed[0].where()}:"
            f" {passed[0].reason}; see `tunewright data check {file}`"
        )
    return Shown(found, [*notes, *renderer.notes])


def _usable(file: str, columns: dict[str, str] | None, passed: list[Problem]) -> Iterator[Example]:
    """The examples of a file; rejected rows are put on ``passed``."""
    for item in read_examples(file, columns=columns):
        if not isinstance(item, Problem):
            yield item
        elif item.action == "rejected":
            passed.append(item)
