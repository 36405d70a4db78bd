"""The files of a prepared directory, written part by part: rows of each side, what was left out and found."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tunewright.core.paths import written_atomically
from tunewright.data.preparing.store import Store
from tunewright.data.problems import Problem, problem
from tunewright.data.split import SIDES


def write_sides(
    directory: Path, store: Store, left: NDArray[np.bool_], sides: NDArray[np.int8]
) -> dict[str, dict[str, Any]]:
    """Write train, validation and test ``.jsonl``; returns the rows and the sha256 of each."""
    hashes = [hashlib.sha256() for _ in SIDES]
    counts = [0] * len(SIDES)
    with ExitStack() as stack:
        outs = [
            stack.enter_context(
                stack.enter_context(written_atomically(directory / f"{side}.jsonl")).open("wb")
            )
            for side in SIDES
        ]
        for line, here, side in zip(store.lines(), left.tolist(), sides.tolist(), strict=True):
            if here:
                outs[side].write(line)
                hashes[side].update(line)
                counts[side] += 1
        for out in outs:
            out.flush()
    return {
        side: {"rows": count, "sha256": sha.hexdigest()}
        for side, count, sha in zip(SIDES, counts, hashes, strict=True)
    }


def rejection(p: Problem) -> dict[str, Any]:
    """A row that was left out, as it stands in ``rejected.jsonl``."""
    return {"source": p.source, "line": p.line, "reason": p.reason, "detail": p.detail}


def rejected_row(entry: dict[str, Any]) -> Problem:
    """The row that was left out of which ``rejection`` made ``entry``."""
    return replace(problem(**entry), action="rejected")


def write_found(directory: Path, store: Store) -> dict[str, Any]:
    """Write what was found of personal data and what has to be decided; returns counts by type and action."""
    acted: Counter[tuple[str, str]] = Counter()
    asked: Counter[str] = Counter()
    values: set[str] = set()

    def redactions() -> Iterator[dict[str, Any]]:
        for _, part in store.told():
            for one in part.redactions:
                acted[one["type"], one["action"]] += 1
                yield one

    def questions() -> Iterator[dict[str, Any]]:
        for _, part in store.told():
            for one in part.questions:
                asked[one["type"]] += 1
                values.add(one["id"])
                yield one

    write_lines(directory / "redactions.jsonl", redactions())
    write_lines(directory / "review.jsonl", questions())
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for (kind, action), count in sorted(acted.items()):
        counts[kind][action] = count
    return {"found": dict(counts), "questions": dict(sorted(asked.items())), "values_to_decide": len(values)}


def write_lines(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines atomically."""
    with written_atomically(path) as temporary, temporary.open("wb") as out:
        for entry in entries:
            out.write(orjson.dumps(entry) + b"\n")


def by_task(
    store: Store, left: NDArray[np.bool_], sides: NDArray[np.int8], names: dict[int, str]
) -> dict[str, dict[str, int]]:
    """Rows of each side, by task; ``names`` gives the task that a number in ``facts`` stands for."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(SIDES, 0))
    tasks = np.array(store.facts["task"])
    for number, name in sorted(names.items(), key=lambda item: item[1]):
        for place, side in enumerate(SIDES):
            counts[name][side] = int((left & (tasks == number) & (sides == place)).sum())
    return dict(counts)
