"""Mixing in: rows of other data sets beside the main ones, each source at a share of the training rows.

The main rows are used whole. A source of weight ``w`` is meant to make up the share ``w`` of all training
rows, and so gets ``round(main * w / (1 - sum of weights))`` of them, at most its ``cap``, and never a row
more than ``repeat`` times. A source that has too few keeps what it has; no other source makes up for it.

Which rows: those with the smallest ``hash(seed, row)``. So the same files give the same rows, a row appended
to a source takes the place of at most one other, and a larger share holds all rows of a smaller one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tunewright.core.errors import ConfigError, DataError
from tunewright.core.hashing import unit_interval
from tunewright.core.records import Example, kind_of
from tunewright.data.apart import kept_apart, key_in_task, not_yet_there
from tunewright.data.keys import row_key, texts_of
from tunewright.data.problems import Problem, problem


@dataclass(frozen=True, slots=True)
class Source:
    """The usable rows of one file that is mixed in, and how many of them are wanted."""

    name: str
    rows: Sequence[Example]
    weight: float
    cap: int | None = None
    repeat: int = 1


@dataclass(frozen=True, slots=True)
class Portion:
    """What was taken of one source: ``rows`` in the order of the file, repeated ones beside each other.

    ``wanted``: rows that its weight asks for. ``candidates``: rows that could be taken.
    """

    source: Source
    wanted: int
    candidates: int
    rows: list[Example]
    dropped: list[Problem]

    @property
    def distinct(self) -> int:
        """Different rows among those that were taken."""
        return min(len(self.rows), self.candidates)


@dataclass(frozen=True, slots=True)
class Sides:
    """The main rows, after the split."""

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]


Near = Callable[[Sequence[Example]], Sequence[int]]
"""(rows) -> for each the index of the first of its cluster of near-duplicates; its own where it is alone."""


def portions(main: Sides, sources: Sequence[Source], seed: int, near: Near | None = None) -> list[Portion]:
    """What is taken of each source; the training rows are the main ones and then these, in order.

    With ``near`` no near-duplicate of a row that judges is taken.

    Raises ``ConfigError`` for weights that leave nothing for the main rows, and ``DataError`` for a source
    whose rows are of another kind than the main ones of their task.
    """
    total = sum(source.weight for source in sources)
    if total >= 1:
        raise ConfigError(f"data.mix: the weights sum to {total:g}; leave a share for data.train, below 1")
    kinds = {example.meta.task: kind_of(example) for example in main.train}
    seen = {key_in_task(e): e.meta.where() for e in (*main.train, *main.validation, *main.test)}
    found = []
    for source in sources:
        _check_kind(source, kinds)
        apart, asked = kept_apart(source.rows, main.validation, main.test)
        apart, alike = _unlike(apart, main, near) if near else (apart, [])
        candidates, doubled = not_yet_there(apart, seen)
        wanted = round(len(main.train) * source.weight / (1 - total))
        rows = [replace(e, meta=replace(e.meta, mixed=source.name)) for e in candidates]
        taken = drawn(rows, _allowed(source, wanted, len(rows)), seed)
        found.append(Portion(source, wanted, len(rows), taken, [*asked, *alike, *doubled]))
    return found


def drawn(rows: Sequence[Example], count: int, seed: int) -> list[Example]:
    """``count`` rows, each ``count // len(rows)`` times and those with the smallest hash once more."""
    if not rows:
        return []
    times, more = divmod(count, len(rows))
    draws = sorted((unit_interval("mix", seed, row_key(e).hex()), i) for i, e in enumerate(rows))
    again = {i for _, i in draws[:more]}
    return [e for i, e in enumerate(rows) for _ in range(times + (i in again))]


def shares(parts: Mapping[str, Iterable[Example]]) -> dict[str, dict[str, float]]:
    """Of each part its rows and characters, and its share of each among all parts (0 where there is none)."""
    counts = {name: _size(rows) for name, rows in parts.items()}
    rows, characters = (sum(size[i] for size in counts.values()) for i in (0, 1))
    return {
        name: {
            "rows": own_rows,
            "share": round(own_rows / max(rows, 1), 6),
            "characters": own_characters,
            "share_of_characters": round(own_characters / max(characters, 1), 6),
        }
        for name, (own_rows, own_characters) in counts.items()
    }


def _unlike(rows: list[Example], main: Sides, near: Near) -> tuple[list[Example], list[Problem]]:
    """The rows that are in no cluster with a row that judges, and a ``Problem`` for each other."""
    judging = [*main.test, *main.validation]
    kept: list[Example] = []
    dropped: list[Problem] = []
    for row, first in zip(rows, near([*judging, *rows])[len(judging) :], strict=True):
        if first >= len(judging):
            kept.append(row)
            continue
        reason = "in_test" if first < len(main.test) else "in_validation"
        where = judging[first].meta.where()
        place = row.meta.source, row.meta.line
        dropped.append(problem(*place, reason, f"nearly equal to {where}"))
    return kept, dropped


def _allowed(source: Source, wanted: int, candidates: int) -> int:
    limit = wanted if source.cap is None else min(wanted, source.cap)
    return min(limit, candidates * source.repeat)


def _check_kind(source: Source, kinds: Mapping[str | None, str]) -> None:
    for example in source.rows:
        kind = kinds.get(example.meta.task)
        if kind is not None and kind_of(example) != kind:
            raise DataError(
                f"data.mix: {source.name} holds {kind_of(example)} rows ({example.meta.where()}), but"
                f" data.train holds {kind} rows; mix in rows of the same kind"
            )


def _size(rows: Iterable[Example]) -> tuple[int, int]:
    sizes = [sum(map(len, texts_of(example))) for example in rows]
    return len(sizes), sum(sizes)
