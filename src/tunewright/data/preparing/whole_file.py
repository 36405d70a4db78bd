"""What only the whole file can say of a row: boiler-plate, wrong language, an answer that holds a place."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from tunewright.data.clean.file import Counts, Facts, Found, decide, judge
from tunewright.data.clean.outcome import Drop
from tunewright.data.clean.settings import CleanSettings
from tunewright.data.preparing.ledger import Ledger


def judge_files(ledger: Ledger, settings: CleanSettings) -> dict[str, Any]:
    """Judge the rows that are left by the counts of all of them; returns the languages and what was noted.

    The rows of all files are judged together, because they are for one thing.
    """
    store = ledger.store
    facts = np.array(store.facts[["language", "answer", "brief", "placeholder"]])
    counts = _counts(facts[ledger.left], settings)
    found = decide(counts, settings)
    suspects = ledger.left & _suspect(facts, found)
    noted: Counter[str] = Counter()
    lost: dict[int, Drop] = {}
    for row in np.flatnonzero(suspects).tolist():
        outcome = judge(store.example(row), _facts(facts[row]), found, settings)
        if isinstance(outcome, Drop):
            lost[row] = outcome
        else:
            noted.update(reason for reason, _ in outcome.notes)
    ledger.drop(
        "whole_file",
        np.array(list(lost), np.int64),
        [drop.reason for drop in lost.values()],
        lambda store, row: lost[row].detail,
    )
    return {
        "languages": dict(counts.languages.most_common()),
        "expected": found.language,
        "noted": dict(noted),
    }


def _counts(facts: np.ndarray[Any, Any], settings: CleanSettings) -> Counts:
    """The counts of ``clean.file.counted``, from arrays; answers that are too few to matter are left out."""
    codes, rows = np.unique(facts["language"][facts["language"] != b""], return_counts=True)
    languages = Counter(dict(zip(codes.astype(str).tolist(), rows.tolist(), strict=True)))
    keys, rows = np.unique(facts["answer"][facts["answer"] != 0], return_counts=True)
    often = rows >= settings.boilerplate
    answers = Counter(dict(zip(keys[often].tolist(), rows[often].tolist(), strict=True)))
    brief = facts["brief"]
    return Counts(languages, answers, int((brief == 1).sum()), int((brief >= 0).sum()))


def _suspect(facts: np.ndarray[Any, Any], found: Found) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Rows that ``judge`` may have something to say about."""
    suspects = (facts["placeholder"] == 1) & (not found.labels)
    suspects |= np.isin(facts["answer"], np.array(sorted(found.boilerplate), np.uint64))
    if found.language:
        suspects |= (facts["language"] != b"") & (facts["language"] != found.language.encode())
    result: np.ndarray[Any, np.dtype[np.bool_]] = suspects
    return result


def _facts(entry: np.void) -> Facts:
    return Facts(
        entry["language"].decode() or None,
        int(entry["answer"]) or None,
        None if entry["brief"] < 0 else bool(entry["brief"]),
        bool(entry["placeholder"]),
    )
