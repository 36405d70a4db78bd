"""Examples to tokens for every split, with the refusals and warnings that belong before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

from tunewright.core.errors import DataError
from tunewright.core.records import Example, Tokens
from tunewright.data.lengths import Tally, tally
from tunewright.data.pipeline import Prepared
from tunewright.engine.plan import Pace, Planned, steps_in_order
from tunewright.engine.source import Stored
from tunewright.objectives.base import Objective
from tunewright.objectives.multi import of_task, tasks_of
from tunewright.run.compose import Parts, check_kinds
from tunewright.run.session import Session
from tunewright.run.tasks import parts_of, session_of, splits_of

HALF = 0.5


def sizes_of(objective: Objective, sequences: Sequence[Tokens]) -> list[int]:
    """What each sequence counts against ``tokens_per_step``; where an update counts rows, one each."""
    return [1 if objective.rows_per_step else tokens.size for tokens in sequences]


@dataclass(frozen=True)
class Sequences:
    """Rendered training and validation rows with something to learn; ``facts`` counts the training rows."""

    train: list[Tokens]
    validation: list[Tokens]
    facts: dict[str, Any]


def planned(objective: Objective, train: Sequence[Tokens], pace: Pace, updates: int = 1) -> list[Planned]:
    """Every update of a run over ``train``."""
    rows_of = Stored(train, objective.shares, pace.seed).rows
    return steps_in_order(sizes_of(objective, train), pace, updates, rows_of)


def encode_splits(parts: Parts, session: Session, splits: Prepared) -> Sequences:
    """Render train and validation; refuse a run that would learn nothing, and say what was cut or empty.

    Several tasks are rendered and checked one after the other, each as if it were alone.
    """
    tasks = tasks_of(parts.objective)
    if not tasks:
        return _encoded(parts, session, splits)
    train: list[Tokens] = []
    validation: list[Tokens] = []
    facts: dict[str, Any] = {}
    for task in tasks:
        try:
            found = _encoded(parts_of(parts, task), session_of(session, task), splits_of(splits, task))
        except DataError as error:
            raise DataError(f"task {task!r}: {error}") from None
        train += of_task(found.train, task)
        validation += of_task(found.validation, task)
        facts[task] = found.facts
    return Sequences(train, validation, {**_sums(list(facts.values())), "tasks": facts})


def _sums(facts: Sequence[dict[str, int]]) -> dict[str, int]:
    """The counts of all tasks, added up by name."""
    return {name: sum(counts[name] for counts in facts) for name in facts[0]}


def _encoded(parts: Parts, session: Session, splits: Prepared) -> Sequences:
    check_kinds(
        parts.objective, session.recipe.objective.name, [*splits.train, *splits.validation, *splits.test]
    )
    train, dropped = _encode(parts, splits.train)
    validation, dropped_validation = _encode(parts, splits.validation)
    weighted, limit = not _needs_no_weights(parts.objective), parts.renderer.max_length
    counts = _counts(train, limit, weighted=weighted)
    for name, found, left_out in (
        ("training", counts, dropped),
        ("validation", _counts(validation, limit, weighted=weighted), dropped_validation),
    ):
        _warn(session, name, found, left_out, limit or 0)
    if not weighted:
        if not train:
            raise DataError(
                f"all {len(splits.train)} training rows are longer than {limit} tokens and were left out;"
                " raise data.max_length, or set data.over_long to cut"
            )
        return Sequences(train, validation, {**asdict(counts), "dropped": dropped})
    _refuse(session, counts, dropped, len(splits.train))
    kept = _learnable(validation)
    if validation and not kept:
        raise DataError(
            f"none of {len(validation)} validation sequences has a token to learn; raise data.max_length,"
            " change data.train_on, or set data.split.validation=0"
        )
    return Sequences(_learnable(train), kept, {**asdict(counts), "dropped": dropped})


def _encode(parts: Parts, examples: Sequence[Example]) -> tuple[list[Tokens], int]:
    """Every sequence of every example in order, and how many were left out as over-long."""
    before = parts.renderer.dropped
    found = list(chain.from_iterable(parts.objective.encode_all(examples, parts.renderer)))
    return found, parts.renderer.dropped - before


def _counts(sequences: Sequence[Tokens], limit: int | None, *, weighted: bool) -> Tally:
    """The tally; where no given token is learnt, none is missing from a row either."""
    counts = tally(sequences, limit)
    return counts if weighted else replace(counts, all_masked=0, endless=0)


def _needs_no_weights(objective: Objective) -> bool:
    """Whether something other than given tokens is learnt: what a head says, or answers to be sampled."""
    return bool(objective.heads) or "rollouts" in objective.requires


def _learnable(sequences: Sequence[Tokens]) -> list[Tokens]:
    """Those with at least one token to predict."""
    return [t for t in sequences if t.trained]


def _warn(session: Session, name: str, counts: Tally, dropped: int, limit: int) -> None:
    rows = counts.rows + dropped
    for count, what in (
        (counts.truncated, f"are longer than {limit} tokens and were cut (data.max_length, data.over_long)"),
        (dropped, f"are longer than {limit} tokens and were left out (data.max_length, data.over_long)"),
        (counts.endless, "were cut inside an answer, so nothing in them teaches the model to stop"),
        (counts.all_masked, "have nothing to learn and were left out"),
    ):
        if count:
            session.warn(f"{count} of {rows} {name} sequences ({count / rows:.1%}) {what}")
    if counts.control_hits:
        session.warn(
            f"{counts.control_hits} control strings of the chat template stand in the {name} rows; they are"
            " read as plain text"
        )


def _refuse(session: Session, counts: Tally, dropped: int, rows: int) -> None:
    if counts.trained_tokens == 0:
        data = session.recipe.data
        raise DataError(
            f"no token of {rows} training rows would be learnt: data.train_on is {data.train_on!r}, and"
            f" {counts.truncated} were cut and {dropped} left out at data.max_length={data.max_length}; look"
            " at `tunewright data show`"
        )
    if counts.endless == counts.rows:
        raise DataError(
            f"all {rows} training rows are cut at data.max_length={session.recipe.data.max_length} before"
            " their answer ends: the model would never learn to stop; raise data.max_length or shorten them"
        )
    if counts.all_masked > HALF * counts.rows:
        raise DataError(
            f"{counts.all_masked} of {counts.rows} training sequences have nothing to learn; raise"
            " data.max_length or change data.train_on"
        )
