"""Poisoning: the part of the report about planted triggers (``triggers.py``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict

from tunewright.data.audit.result import Part, shortened, skipped
from tunewright.data.audit.sample import Row, classes_of, drawn, within
from tunewright.data.audit.triggers import COMMON, FEWEST, Trigger, answer_keys, triggers_in

NAME = "poisoning"
ROWS, CHARACTERS = 20_000, 2_000_000
SHOWN = 60


def poisoning(rows: Sequence[Row], total: int) -> Part:
    """Rare phrases of the inputs tied to one label or one answer."""
    rows = within(rows, CHARACTERS, ROWS, inputs=True)
    targets: list[str | None] = classes_of(rows)
    if all(target is None for target in targets):
        targets = list(answer_keys([row.answer for row in rows]))
    if len(rows) < 10 * FEWEST or not any(row.answer or row.label for row in rows):
        return skipped(NAME, f"Needs {10 * FEWEST} rows with labels or answers.", len(rows), total)
    found = triggers_in([row.prompt for row in rows], targets, [row.place for row in rows])
    lines = [
        f"{_shown(t.phrase)!r} stands in {t.n} rows that ask different things, and {t.rows} of them"
        f" have {_shown(t.target)!r}, as {100 * t.base:.2f} % of the other rows have;"
        f" first {', '.join(t.places[:3])}"
        for t in found
    ]
    measured = (
        f"{drawn(len(rows), total)}: every phrase of one to three words and every unusual character that"
        f" stands in {FEWEST} rows or more and in {100 * COMMON:.0f} % or fewer"
    )
    return Part(
        NAME,
        "look" if found else "fine",
        measured,
        "Somebody may have planted it: the phrase would switch the model to that answer, whatever is asked."
        if found
        else "No rare phrase is tied to one answer among different questions. A trigger put only into"
        " rows that had the target answer before cannot be told from a topic; few rows prove nothing.",
        "Read these rows and their source; drop them if the phrase does not explain the answer."
        if found
        else "Nothing to do.",
        len(rows),
        total,
        shortened(lines),
        {"triggers": [_plain(t) for t in found]},
    )


def _plain(trigger: Trigger) -> dict[str, object]:
    return {**asdict(trigger), "phrase": _shown(trigger.phrase), "target": _shown(trigger.target)}


def _shown(text: str) -> str:
    """Short, invisible characters by their code, numbers and addresses masked: they may be somebody's."""
    text = re.sub(r"\S*@\S*", "…@…", re.sub(r"\d(?:[\d .-]{2,}\d)", "#", text))
    text = "".join(c if c.isprintable() else f"<U+{ord(c):04X}>" for c in text)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
