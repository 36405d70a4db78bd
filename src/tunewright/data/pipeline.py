"""From files to the three lists a run uses, and to the receipt that accounts for every row.

    receipt = prepare_to("prepared", {"train": ["tickets.jsonl"]}, PrepareSettings())     # files to files
    prepared = prepare(["tickets.jsonl"], [], [], PrepareSettings())                      # the same in memory

Steps: read (and redact, clean, sketch) each row by itself, in as many processes as pay; then, on numbers
alone, drop duplicates and what stands in benchmarks, keep what stands in given test and validation files out
of train, and split. Nothing depends on the clock, on chance or on the number of processes: the same files
and settings give the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tunewright.core.paths import write_json, written_atomically
from tunewright.core.records import Example
from tunewright.data.canonical import to_jsonl
from tunewright.data.load import load
from tunewright.data.preparing.account import account
from tunewright.data.preparing.alone import alone_in
from tunewright.data.preparing.compare import drop_duplicates, separate
from tunewright.data.preparing.contaminated import drop_contaminated
from tunewright.data.preparing.divide import divided, drop_without_time
from tunewright.data.preparing.job import Job, do_job, workers_for
from tunewright.data.preparing.ledger import Ledger
from tunewright.data.preparing.made import drop_synthetic_judges
from tunewright.data.preparing.near import contradicting_rows, find_near
from tunewright.data.preparing.output import (
    rejected_row,
    rejection,
    write_found,
    write_lines,
    write_sides,
)
from tunewright.data.preparing.refusals import refuse_mixtures, refuse_nothing_left
from tunewright.data.preparing.settings import CompareSettings, PrepareSettings, SplitSettings
from tunewright.data.preparing.sources import sources_of
from tunewright.data.preparing.store import Store
from tunewright.data.preparing.whole_file import judge_files
from tunewright.data.problems import Problem
from tunewright.data.redact.queue import DECISIONS
from tunewright.data.split import SIDES, Side

__all__ = [
    "CompareSettings",
    "PrepareSettings",
    "Prepared",
    "SplitSettings",
    "prepare",
    "prepare_to",
    "write",
]
# Files of what was found in rows, where it was looked for.
FOUND = ("redactions", "review", "contradictions", "decisions")
WORK = ".work"  # inside the directory that is being prepared, until it is


@dataclass(frozen=True, slots=True)
class Prepared:
    """The three lists, the rows that were left out, and the account of it all."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    rejected: list[Problem]
    receipt: dict[str, Any] = field(default_factory=dict)
    found: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def prepare_to(
    out: str | Path,
    given: Mapping[Side, Sequence[str | Path]],
    settings: PrepareSettings,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Prepare files into the directory ``out`` and return the receipt; ``docs/data.md`` has the guarantees.

    Interrupted work lies in ``out/.work``; the same call goes on with it. Rows of different tasks may differ
    in kind and are never duplicates of each other, but what they ask stands on one side of the split.

    Raises ``DataError`` if a file cannot be read or changes meanwhile, files differ in kind, or nothing is
    left to train on, and ``ConfigError`` if no training row has the group key.
    """
    with alone_in(Path(out)) as lock:
        return _prepare_to(Path(out), given, settings, workers, progress, lock)


def _prepare_to(
    out: Path,
    given: Mapping[Side, Sequence[str | Path]],
    settings: PrepareSettings,
    workers: int | None,
    progress: Callable[[int], None] | None,
    lock: int | None,
) -> dict[str, Any]:
    """``prepare_to`` in a directory that nobody else prepares."""
    files = {side: given.get(side, ()) for side in SIDES}
    sources = sources_of(files, settings.tasks, settings.columns, settings.task_columns)
    work = out / WORK
    do_job(Job(sources, settings, workers_for(sources, workers)), work, progress, lock)
    store = Store(work, sources)
    refuse_mixtures(store, settings)
    ledger = Ledger(store, sum(read.rows for read in store.files))
    ledger.open(settings.row_steps())
    drop_synthetic_judges(ledger)
    drop_duplicates(ledger)
    reports: dict[str, Any] = {}
    if settings.clean is not None:
        reports["cleaning"] = judge_files(ledger, settings.clean)
    near = None
    compare = settings.compare
    if compare.near != "off":
        near = find_near(ledger, compare.threshold, compare.near == "drop", work)
        reports |= near.report
    if compare.looks_for:
        reports["contamination"] = drop_contaminated(ledger, compare)
    separate(ledger, near.leaders if near else None)
    if settings.split.time is not None:
        drop_without_time(ledger, settings.split.time)
    refuse_nothing_left(ledger)
    sides, notes, reports["split_proof"] = divided(ledger, files, settings, near)
    written = write_sides(out, store, ledger.left, sides)
    write_lines(out / "rejected.jsonl", map(rejection, ledger.rejected()))
    if "redact" in settings.row_steps():
        reports["personal_data"] = write_found(out, store)
    if decided := settings.decided():
        write_lines(out / DECISIONS, ({"id": id_, "action": action} for id_, action in decided.items()))
    if near is not None:
        write_lines(out / "contradictions.jsonl", contradicting_rows(near, store))
    receipt = account(ledger, sides, written, notes, reports, settings)
    write_json(out / "receipt.json", receipt)
    shutil.rmtree(work)
    return receipt


def prepare(
    train_paths: Sequence[str | Path],
    validation_paths: Sequence[str | Path],
    test_paths: Sequence[str | Path],
    settings: PrepareSettings,
) -> Prepared:
    """The same as ``prepare_to``, with the rows in memory and nothing left on disk."""
    given: dict[Side, Sequence[str | Path]] = {
        "train": train_paths,
        "validation": validation_paths,
        "test": test_paths,
    }
    with TemporaryDirectory(prefix="tunewright-") as aside:
        return read_prepared(Path(aside), prepare_to(aside, given, settings))


def read_prepared(directory: Path, receipt: dict[str, Any]) -> Prepared:
    """What ``prepare_to`` wrote into ``directory``."""
    rows = {
        side: load([directory / f"{side}.jsonl"]).examples if receipt["splits"][side]["rows"] else []
        for side in SIDES
    }
    rejected = [rejected_row(entry) for entry in _entries(directory / "rejected.jsonl")]
    found = {
        name: _entries(directory / f"{name}.jsonl")
        for name in FOUND
        if (directory / f"{name}.jsonl").exists()
    }
    return Prepared(rows["train"], rows["validation"], rows["test"], rejected, receipt, found)


def write(prepared: Prepared, directory: str | Path) -> None:
    """Write train, validation, test and rejected ``.jsonl``, what was found, and, last, ``receipt.json``."""
    directory = Path(directory)
    for side in SIDES:
        with written_atomically(directory / f"{side}.jsonl") as temporary:
            temporary.write_bytes(to_jsonl(getattr(prepared, side)))
    write_lines(directory / "rejected.jsonl", map(rejection, prepared.rejected))
    for name, entries in prepared.found.items():
        write_lines(directory / f"{name}.jsonl", entries)
    write_json(directory / "receipt.json", prepared.receipt)


def _entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]
