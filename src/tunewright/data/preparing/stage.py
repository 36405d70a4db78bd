"""What happens to rows one by one: personal data out, row to example, cleaning, and a few numbers about it.

Everything here is a function of the row and the settings alone, so any process may do any share of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from tunewright.core.records import Example, kind_of
from tunewright.data.canonical import to_jsonl
from tunewright.data.clean.file import facts_of
from tunewright.data.clean.outcome import Drop
from tunewright.data.clean.rows import clean
from tunewright.data.clean.settings import CleanSettings
from tunewright.data.contamination.index import Index
from tunewright.data.dedupe.contradictions import label_hash, said
from tunewright.data.dedupe.sketch import OTHER_SEED, SEED, row_text, sketch
from tunewright.data.keys import Key, answer_of, row_key, texts_of
from tunewright.data.load import Reader
from tunewright.data.preparing.part import FACTS, Part
from tunewright.data.problems import Problem, problem
from tunewright.data.redact.findings import Redacted
from tunewright.data.redact.redactor import Redactor
from tunewright.data.rows import Notes, Raw
from tunewright.data.split_table import table_of


@dataclass
class Stage:
    """What is done with single rows; ``None`` and ``False`` are off.

    ``near``: make sketches for near-duplicates. ``index``: items of benchmarks to look for. ``time``: row ->
    seconds since 1970.
    """

    redact: Redactor | None = None
    clean: CleanSettings | None = None
    near: bool = False
    index: Index | None = None
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
        if found is not None and found.drop_reason is not None:
            detail = found.drop_reason
            part.rejected.append(("redact", problem(reader.source, raw.line, "personal_data", detail)))
            continue
        if found is not None:
            raw = raw._replace(value=found.row)
            _note_findings(part, found, reader.source, raw.line)
        _read_one(part, kept, raw, found, reader, task, stage)
    _describe(part, kept, stage)
    return part


def _redacted(raws: Sequence[Raw], reader: Reader, stage: Stage) -> Iterable[Redacted | None]:
    """What was found in each row that is an object; ``None`` for others, or where nothing is looked for."""
    if stage.redact is None:
        return [None] * len(raws)
    rows = [raw.value for raw in raws if type(raw.value) is dict]
    found = iter(stage.redact.rows(rows, reader.reads))
    return [next(found) if type(raw.value) is dict else None for raw in raws]


def _note_findings(part: Part, found: Redacted, source: str, line: int) -> None:
    part.redactions += [{"source": source, "line": line, **one.to_dict()} for one in found.redactions]
    part.questions += [one.to_dict(source, line) for one in found.questions]


def _read_one(
    part: Part, kept: _Kept, raw: Raw, found: Redacted | None, reader: Reader, task: str | None, stage: Stage
) -> None:
    """Take one row into the part: as an example with what was changed in it, or as a rejected row."""
    changes: list[tuple[str, str]] = []
    example = None
    for item in reader.read(raw):
        if not isinstance(item, Problem):
            example = item
        elif item.action == "rejected":
            if found is not None and found.redactions:  # what was replaced may be why, as for equal answers
                item = replace(item, detail=f"{item.detail} (once personal data was replaced)")
            part.rejected.append(("read", item))
        else:
            changes.append((item.reason, item.action))
    if example is None:
        return
    example = _named(example, reader.source, task, stage.redact)
    if stage.clean is not None:
        cleaned = clean(example, stage.clean)
        if isinstance(cleaned, Drop):
            place = example.meta.source, example.meta.line
            part.rejected.append(("clean", problem(*place, cleaned.reason, cleaned.detail)))
            return
        example = cleaned.example
        changes += [(reason, "repaired") for reason, _ in cleaned.changes]
        changes += [(reason, "noted") for reason, _ in cleaned.notes]
    part.changed.update(changes)
    part.changed_rows.update(set(changes))
    part.kinds.setdefault(example.meta.task or "", {}).setdefault(kind_of(example), example.meta.where())
    part.grouped += example.meta.group is not None
    kept.examples.append(example)
    kept.times.append(stage.time(raw.value) if stage.time else float("nan"))
    kept.repairs.append(sum(action == "repaired" for _, action in changes))
    kept.redactions.append(len(found.redactions) if found is not None else 0)


def _named(example: Example, read_from: str, task: str | None, redact: Redactor | None) -> Example:
    """The row with its task, and with a source, an id and a group that name nobody."""
    meta = example.meta
    source, id_, group = meta.source, meta.id, meta.group
    if redact is not None:
        id_, group = (None if name is None else redact.safe_name(name) for name in (id_, group))
        if source != read_from:  # a row that says itself where it comes from may say anything
            source = redact.safe_name(source)
    if (meta.task, meta.source, meta.id, meta.group) == (task, source, id_, group):
        return example
    return replace(example, meta=replace(meta, task=task, source=source, id=id_, group=group))


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
    for entry, example in zip(facts, examples, strict=True):
        entry["a"], entry["b"] = _halves(_exact_key(example))
        entry["label"] = label_hash(example)
        entry["synthetic"] = example.meta.synthetic is not None
        entry["task"] = hashed(example.meta.task or "")
        entry["words"] = len((answer_of(example) or " ".join(texts_of(example))).split())
        entry["brief"] = -1
        if stage.clean is not None:
            _describe_for_cleaning(entry, example)
    part.arrays = {
        "facts": facts,
        "leaders": table.leaders,
        "classes": table.classes,
        "keys": table.keys,
        "labels": table.labels,
        "bands": np.zeros((len(examples), 0), np.uint64),
    }
    if not examples or not (stage.near or stage.index):
        return
    texts = [row_text(example) for example in examples]
    if stage.near:
        part.arrays["bands"] = sketch(texts, (SEED, OTHER_SEED))
        facts["question"], facts["says"] = said(examples)
    if stage.index is not None:
        part.matches = [match._asdict() for match in stage.index.hits(texts)]


def _describe_for_cleaning(entry: np.void, example: Example) -> None:
    """What the file as a whole must be asked about a row."""
    found = facts_of(example)
    entry["language"] = found.language or ""
    entry["answer"] = found.answer or 0
    entry["brief"] = -1 if found.brief is None else found.brief
    entry["placeholder"] = found.placeholder


def _exact_key(example: Example) -> Key:
    """Equal for exact duplicates; rows of different tasks are never duplicates of each other."""
    task = (example.meta.task or "").encode("utf-8", "surrogatepass")
    return blake2b(row_key(example) + task, digest_size=16).digest()


def _halves(key: Key) -> tuple[int, int]:
    return int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")


def hashed(text: str) -> int:
    """A 64-bit number that stands for a text in every process."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
