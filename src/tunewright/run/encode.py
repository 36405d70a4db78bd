"""Examples to tokens for every split, with the refusals and warnings that belong before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunewright.core.errors import DataError
from tunewright.core.records import Example, Tokens
from tunewright.data.lengths import tally
from tunewright.run.compose import Parts, check_kinds

HALF = 0.5


@dataclass(frozen=True)
class Sequences:
    """Rendered training and validation rows that have something to learn."""

    train: list[Tokens]
    validation: list[Tokens]
    facts: dict[str, Any]


def encode_splits(parts: Parts, session: Any, splits: Any) -> Sequences:
    """Render train and validation; refuse a run in which no token has weight, and say what was cut or empty."""
    name = session.recipe.objective.name
    check_kinds(parts.objective, name, [*splits.train, *splits.validation, *splits.test])
    train = encode(parts, splits.train)
    validation = encode(parts, splits.validation)
    counts = tally(train, parts.renderer.max_length)
    if counts.trained_tokens == 0:
        raise DataError(
            f"no token of {len(splits.train)} training rows would be learnt (data.train_on is"
            f" {session.recipe.data.train_on!r}); look at `tunewright data show`"
        )
    if counts.truncated:
        session.warn(
            f"{counts.truncated} of {counts.rows} sequences are longer than data.max_length and were cut"
        )
    if counts.all_masked:
        session.warn(
            f"{counts.all_masked} of {counts.rows} sequences have nothing to learn and were left out"
        )
    if counts.all_masked > HALF * counts.rows:
        raise DataError(
            f"{counts.all_masked} of {counts.rows} training sequences have nothing to learn; raise data.max_length"
            " or change data.train_on"
        )
    return Sequences(learnable(train), learnable(validation), asdict(counts))


def encode(parts: Parts, examples: Sequence[Example]) -> list[Tokens]:
    """Every sequence of every example, in order."""
    return [tokens for example in examples for tokens in parts.objective.encode(example, parts.renderer)]


def learnable(sequences: Sequence[Tokens]) -> list[Tokens]:
    """Those with at least one token to predict."""
    return [t for t in sequences if t.trained]
