"""What is found in the strings of rows, before anything is done about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tunewright.data.redact.findings import TYPES, Finding, without_overlaps
from tunewright.data.redact.folding import Folded, fold, lowered
from tunewright.data.redact.name_model import Entity, entities
from tunewright.data.redact.name_words import AMBIGUOUS, COMMON, EPONYMS, SUFFIXES
from tunewright.data.redact.names import SURE, firms, people, worth_asking
from tunewright.data.redact.runs import with_capitals
from tunewright.data.redact.settings import FLOOR, RedactSettings
from tunewright.data.redact.structured import structured
from tunewright.data.redact.walk import Leaf


@dataclass(frozen=True, slots=True)
class Searched:
    """A leaf, its folded text, and what was found there; places are those of the folded text."""

    leaf: Leaf
    folded: Folded
    found: list[Finding]

    def value(self, finding: Finding) -> str:
        """What was found, as folded; never to be written anywhere."""
        return self.folded.text[finding.start : finding.end]


def search(leaves: Sequence[Leaf], settings: RedactSettings) -> list[Searched]:
    """What stands in each of ``leaves``, without overlaps. Many leaves at once spare the model calls."""
    folded = [fold(leaf.text) for leaf in leaves]
    texts = [leaf.label + f.text if leaf.label else f.text for leaf, f in zip(leaves, folded, strict=True)]
    lower = [lowered(text) for text in texts]
    named = _names(texts, lower, settings)
    wants = frozenset(kind for kind in TYPES if settings.action_for(kind) != "off").__contains__
    result = []
    for leaf, text, low, kept, names in zip(leaves, texts, lower, folded, named, strict=True):
        found = structured(text, settings.regions, wants, low)
        found += names
        if found:
            skip = len(leaf.label)
            moved = [Finding(f.start - skip, f.end - skip, f.type, f.score) for f in found if f.start >= skip]
            found = without_overlaps(f for f in moved if f.score >= FLOOR)
        result.append(Searched(leaf, kept, found))
    return result


def _names(texts: Sequence[str], lower_texts: Sequence[str], settings: RedactSettings) -> list[list[Finding]]:
    wants_people = settings.names != "off" and settings.action_for("PERSON") != "off"
    wants_firms = settings.names != "off" and settings.action_for("ORGANIZATION") != "off"
    if not (wants_people or wants_firms):
        return [[] for _ in texts]
    cased = [with_capitals(text) for text in texts]
    seen = _asked(cased, lower_texts, wants_firms) if settings.names == "full" else [None] * len(texts)
    found: list[list[Finding]] = []
    for text, lower, ents in zip(cased, lower_texts, seen, strict=True):
        both = people(text, lower, ents) if wants_people else []
        found.append(both + (list(firms(text, ents)) if wants_firms else []))
    return found


def _asked(texts: Sequence[str], lower_texts: Sequence[str], whole: bool) -> list[list[Entity] | None]:
    """The model's entities of each text; it reads only the sentences where its word may decide."""
    spans = [
        (number, start, end)
        for number, (text, lower) in enumerate(zip(texts, lower_texts, strict=True))
        for start, end in _to_read(text, lower, whole)
    ]
    result: list[list[Entity] | None] = [[] for _ in texts]
    if spans:
        answers = entities(texts[n][start:end] for n, start, end in spans)
        for (n, start, _), found in zip(spans, answers, strict=True):
            result[n] += [Entity(e.start + start, e.end + start, e.label) for e in found]  # type: ignore[operator]
    return result


SHORT = 600  # code points up to which the model reads the whole text, which helps it


def _to_read(text: str, lower: str, whole: bool) -> list[tuple[int, int]]:
    spans = [] if whole else worth_asking(text, lower)
    return [(0, len(text))] if whole or (spans and len(text) <= SHORT) else spans


def same_people(row: Sequence[Searched]) -> list[Searched]:
    """Whoever is named in full in one string of a row is found by a part of the name in all of them."""
    parts = {
        word.strip(".,")
        for s in row
        for f in s.found
        if f.type == "PERSON" and f.score >= SURE and " " in s.value(f)
        for word in s.value(f).split()
    }
    firm = sorted(w for w in parts if len(w) > 2 and w[0].isupper() and w.lower() not in _COMMON_PARTS)
    if not firm:
        return list(row)
    pattern = re.compile(r"(?<![\w@.-])(?:" + "|".join(map(re.escape, firm)) + r")(?![\w@]|\.\w)")
    result = []
    for s in row:
        taken = [f for f in s.found if f.type == "PERSON" and f.score >= SURE]
        again = [
            Finding(*m.span(), "PERSON", 0.8)
            for m in pattern.finditer(s.folded.text)
            if not any(f.start < m.end() and m.start() < f.end for f in taken)
        ]
        result.append(Searched(s.leaf, s.folded, without_overlaps([*s.found, *again])) if again else s)
    return result


_COMMON_PARTS = AMBIGUOUS | COMMON | EPONYMS | SUFFIXES


def name_words(value: str) -> list[str]:
    """The words of a name in lower case, without what stands behind it (MD, Jr)."""
    words = [w.strip(".,") for w in value.lower().split()]
    return [w for w in words if w and w not in SUFFIXES]
