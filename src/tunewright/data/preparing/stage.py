"""What happens to rows one by one: personal data out, row to example, cleaning, and a few numbers about it.

Everything here is a function of the row and the settings alone, so any process may do any share of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tunewright.core.records import Example, kind_of
from tunewright.data.canonical import to_jsonl
from tunewright.data.keys import Key, answer_of, normalise, question_key, row_key, texts_of
from tunewright.data.load import Reader
from tunewright.data.preparing.part import FACTS, Part
from tunewright.data.problems import Problem, problem
from tunewright.data.rows import Notes, Raw
from tunewright.data.split_table import table_of


class Redacts(Protocol):
    """Takes personal data out of raw rows; see ``data.redact``."""

    def rows(self, rows: Sequence[dict[str, Any]], wanted: Callable[[str], bool]) -> list[Any]: ...

    def name(self, value: str) -> str: ...


@dataclass
class Stage:
    """The steps that are switched on; ``None`` is off.

    ``clean``: example -> what is kept of it, or why nothing is. ``sketch``: texts -> ``(n, bands)`` hashes.
    ``look_up``: texts -> for each the items of benchmarks that stand in it. ``time``: row -> seconds.
    """

    redact: Redacts | None = None
    clean: Callable[[Example], Any] | None = None
    text: Callable[[Example], str] | None = None
    sketch: Callable[[list[str]], NDArray[np.uint64]] | None = None
    look_up: Callable[[list[str]], list[list[dict[str, Any]]]] | None = None
    time: Callable[[dict[str, Any]], float] | None = None


@dataclass
class _Kept:
    """Examples that are left, with what the raw row knew of each."""

    examples: list[Example] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    repairs: list[int] = field(default_factory=list)
    redactions: list[int] = field(default_factory=list)


def part_of(raws: Sequence[Raw], reader: Reader, task: str | None, stage: Stage) -> Part:
    """Read, redact and clean ``raws``, rows of the file of ``reader``; ``task`` is what they are for."""
    part = Part()
    reader.row_notes = part.notes = Notes()
    kept = _Kept()
    for raw, found in zip(raws, _redacted(raws, reader, stage), strict=True):
        if found is not None and found.drop is not None:
            part.rejected.append(("redact", problem(reader.source, raw.line, "personal_data", found.drop)))
            continue
        if found is not None:
            raw = raw._replace(value=found.row)
            _note_findings(part, found, reader.source, raw.line)
        _read_one(part, kept, raw, found, reader, task, stage)
    _describe(part, kept, stage)
    return part


def _redacted(raws: Sequence[Raw], reader: Reader, stage: Stage) -> Iterable[Any]:
    """What was found in each row that is an object; ``None`` for others, or where nothing is looked for."""
    if stage.redact is None:
        return [None] * len(raws)
    rows = [raw.value for raw in raws if type(raw.value) is dict]
    found = iter(stage.redact.rows(rows, reader.reads))
    return [next(found) if type(raw.value) is dict else None for raw in raws]


def _note_findings(part: Part, found: Any, source: str, line: int) -> None:
    place = {"source": source, "line": line}
    part.redactions += [{**place, **entry.to_dict()} for entry in found.redactions]
    part.questions += [{**place, **entry.to_dict()} for entry in found.questions]


def _read_one(
    part: Part, kept: _Kept, raw: Raw, found: Any, reader: Reader, task: str | None, stage: Stage
) -> None:
    """Take one row into the part: as an example with what was changed in it, or as a rejected row."""
    changes: list[tuple[str, str]] = []
    example = None
    for item in reader.read(raw):
        if not isinstance(item, Problem):
            example = item
        elif item.action == "rejected":
            part.rejected.append(("read", item))
        else:
            changes.append((item.reason, item.action))
    if example is None:
        return
    example = _named(example, task, stage.redact)
    if stage.clean is not None:
        cleaned = stage.clean(example)
        if cleaned.reason is not None:
            place = example.meta.source, example.meta.line
            part.rejected.append(("clean", problem(*place, cleaned.reason, cleaned.detail)))
            return
        example = cleaned.example
        changes += cleaned.changes
    part.changed.update(changes)
    part.changed_rows.update({reason for reason, _ in changes})
    part.kinds.setdefault(example.meta.task or "", {}).setdefault(kind_of(example), example.meta.where())
    part.grouped += example.meta.group is not None
    kept.examples.append(example)
    kept.times.append(stage.time(raw.value) if stage.time else float("nan"))
    kept.repairs.append(len(changes))
    kept.redactions.append(len(found.redactions) if found is not None else 0)


def _named(example: Example, task: str | None, redact: Redacts | None) -> Example:
    """The row with its task, and with an id and a group that name nobody."""
    meta = replace(example.meta, task=task)
    if redact is not None:
        id_, group = (None if name is None else redact.name(name) for name in (meta.id, meta.group))
        meta = replace(meta, id=id_, group=group)
    return example if meta == example.meta else replace(example, meta=meta)


def _describe(part: Part, kept: _Kept, stage: Stage) -> None:
    """Put the rows that are left into the part, and the numbers by which they are compared."""
    examples = kept.examples
    lines = [to_jsonl([example]) for example in examples]
    part.rows = b"".join(lines)
    table = table_of(examples)
    facts = np.zeros(len(examples), FACTS)
    facts["size"] = list(map(len, lines))
    facts["start"] = np.cumsum(facts["size"]) - facts["size"]
    facts["repairs"], facts["redactions"], facts["time"] = kept.repairs, kept.redactions, kept.times
    for number, example in enumerate(examples):
        entry = facts[number]
        entry["a"], entry["b"] = _halves(_exact_key(example))
        entry["question"] = _halves(question_key(example))[0]
        entry["answer"] = hashed(normalise(answer_of(example)))
        entry["task"] = hashed(example.meta.task or "")
        entry["length"] = len(answer_of(example)) or sum(map(len, texts_of(example)))
    part.arrays = {
        "facts": facts,
        "leaders": table.leaders,
        "classes": table.classes,
        "keys": table.keys,
        "labels": table.labels,
        "bands": np.zeros((len(examples), 0), np.uint64),
    }
    if stage.text is None:
        return
    texts = [stage.text(example) for example in examples]
    if stage.sketch is not None and texts:
        part.arrays["bands"] = stage.sketch(texts)
    if stage.look_up is not None:
        for number, found in enumerate(stage.look_up(texts)):
            part.matches += [{"row": number, **match} for match in found]


def _exact_key(example: Example) -> Key:
    """Equal for exact duplicates; rows of different tasks are never duplicates of each other."""
    task = (example.meta.task or "").encode("utf-8", "surrogatepass")
    return blake2b(row_key(example) + task, digest_size=16).digest()


def _halves(key: Key) -> tuple[int, int]:
    return int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")


def hashed(text: str) -> int:
    """A 64-bit number that stands for a text in every process."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
