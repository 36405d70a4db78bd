"""Rendered rows for looking at: every token with its weight and role. Loads a tokenizer, never weights."""

from __future__ import annotations

from itertools import islice
from typing import Any

from tunewright.core.errors import DataError
from tunewright.core.records import Text, as_conversation
from tunewright.data.load import read_examples
from tunewright.data.problems import Problem
from tunewright.data.render import Renderer
from tunewright.models.load import load_tokenizer


def rendered_rows(
    file: str, model: str, n: int, train_on: Any, columns: dict[str, str] | None
) -> list[dict[str, Any]]:
    """The first ``n`` usable rows: ``where`` and ``tokens`` as (text, weight, role)."""
    tokenizer, _ = load_tokenizer(model)
    renderer = Renderer(tokenizer, train_on=train_on)
    found = []
    examples = (e for e in read_examples(file, columns=columns) if not isinstance(e, Problem))
    for example in islice(examples, n):
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
    return found
