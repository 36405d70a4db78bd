"""Profiles: how long rows are, in which languages, and how even the labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from tunewright.data.audit.intervals import share
from tunewright.data.audit.result import Part, share_text, skipped
from tunewright.data.audit.sample import Row, drawn, within

ROWS, CHARACTERS = 1_500, 4_000_000  # a language takes a fifth of a millisecond to tell
READ = 600  # characters that are read for the language
LETTERS = 60  # fewer say nothing: names and short orders look like any language
SURE = 0.99
RARE = 0.05
TOP = 0.01  # of the rows
HEAVY = 0.25  # of all words in the longest ``TOP`` of the rows
UNEVEN = 10  # times the smallest class


def lengths(rows: Sequence[Row], total: int) -> Part:
    """Whether a few rows hold most of the words: they then hold most of what is learnt."""
    name = "lengths"
    words = sorted(len(row.text.split()) for row in rows)
    whole = sum(words)
    if len(rows) < 100 or not whole:
        return skipped(name, "Needs 100 rows.", len(rows), total)
    top = words[-max(1, round(TOP * len(words))) :]
    held = sum(top) / whole
    alarm = held > HEAVY
    at = {q: words[round(q * (len(words) - 1))] for q in (0.05, 0.5, 0.95)}
    return Part(
        name,
        "look" if alarm else "fine",
        f"{drawn(len(rows), total)}: {at[0.05]} to {at[0.95]} words in 90 % of the rows, median"
        f" {at[0.5]}; the longest"
        f" 1 % hold {100 * held:.0f} % of all words (rows count up to 4,000 characters of input and"
        f" of answer)",
        "A few long rows dominate what is learnt." if alarm else "No small part of the rows dominates.",
        "Cut or divide the longest rows." if alarm else "Nothing to do.",
        len(rows),
        total,
        (),
        {"words": {str(q): n for q, n in at.items()}, "held_by_longest": held},
    )


def languages(rows: Sequence[Row], total: int) -> Part:
    """Languages that are certain; rare ones beside a main one stand out."""
    name = "languages"
    rows = within(rows, CHARACTERS, ROWS)
    told = [(language_of(row.text), row) for row in rows]
    counts = Counter(language for language, _ in told if language)
    known = sum(counts.values())
    if known < 20:
        why = f"Only {known} of {len(rows)} texts are long enough (60 letters) to be sure of a language."
        return skipped(name, why, len(rows), total)
    main, most = counts.most_common(1)[0]
    others = [row.place for language, row in told if language and language != main]
    rest = share(known - most, known)
    alarm = 0 < rest.value <= RARE and known - most >= 2
    shown = ", ".join(f"{language} {n}" for language, n in counts.most_common(6))
    return Part(
        name,
        "look" if alarm else "fine",
        f"{drawn(len(rows), total)}: {shown}; {len(rows) - known} too short or mixed to tell;"
        f" {share_text(*rest)} are not {main}",
        f"A few texts are not in the main language ({main}): the model may answer in the wrong one."
        if alarm
        else "One language, or several in earnest.",
        "Drop or translate them, or add enough of them to be learnt." if alarm else "Nothing to do.",
        len(rows),
        total,
        (f"first at {', '.join(others[:5])}",) if alarm else (),
        {"languages": dict(counts.most_common()), "untold": len(rows) - known, "others": others[:100]},
    )


def language_of(text: str) -> str | None:
    """ISO 639-1 code if it is certain; ``None`` for short texts and for any doubt."""
    text = text[:READ]
    letters = sum(map(str.isalpha, text))
    if letters < LETTERS or letters < 0.6 * len(text):
        return None
    code, probability = _identifier().classify(text)
    return str(code) if code and probability >= SURE else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def label_balance(labels: Mapping[str, int], kept: int) -> Part:
    """How even the classes are, over all rows."""
    name = "label balance"
    total = sum(labels.values())
    if not 2 <= len(labels) <= max(2, kept // 2):
        return skipped(name, "No labels, or as many as rows.", kept, kept)
    shares = [n / total for n in labels.values()]
    even = math.exp(-sum(p * math.log(p) for p in shares))
    most, least = max(labels.values()), min(labels.values())
    alarm = least == 1 or most > UNEVEN * least
    rare = sorted(name for name, n in labels.items() if n == 1 or n * UNEVEN < most)
    return Part(
        name,
        "look" if alarm else "fine",
        f"{len(labels)} labels in {kept:,} rows, {least} to {most} rows each; as uneven as {even:.1f}"
        f" equal classes"
        f" would be; the most frequent has {share_text(*share(most, total))}",
        "Rare labels are learned badly and measured badly; accuracy hides it."
        if alarm
        else "No label is rare beside the others.",
        "Add rows of the rare labels, and judge by macro-F1." if alarm else "Nothing to do.",
        kept,
        kept,
        (f"rare: {', '.join(rare[:10])}" + (f" … and {len(rare) - 10} more" if len(rare) > 10 else ""),)
        if alarm
        else (),
        {"labels": len(labels), "equal_classes": even, "rare": rare[:100]},
    )
