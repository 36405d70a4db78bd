"""Names of people and firms: the shape of a name, the words around it, a list, and a model have to agree.

Each piece of evidence adds to or takes from a score; none of them decides alone. So a sentence like "Crohn
described it" or a heading such as "Kidney Failure" stays, though a model calls it a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tunewright.data.redact.evidence import doubt, support
from tunewright.data.redact.findings import Finding
from tunewright.data.redact.name_model import Entity
from tunewright.data.redact.name_words import AMBIGUOUS, COMMON, ordinary
from tunewright.data.redact.runs import VERBS, Run, runs
from tunewright.data.redact.wordlists import given_names

FLOOR = 0.4
SURE, GIVEN = 0.7, 0.5
Scored = list[tuple[Run, float]]


def people(text: str, lower: str, entities: Sequence[Entity] | None) -> list[Finding]:
    """Persons in a folded text. ``entities`` are those of the model, ``None`` where it was not asked."""
    found = [
        Finding(run.start, run.end, "PERSON", round(min(score, 0.99), 2))
        for run, score in _scored(text, lower, entities)
        if score >= FLOOR
    ]
    return found + list(_in_lower_case(text, lower))


def _scored(text: str, lower: str, entities: Sequence[Entity] | None) -> Scored:
    """Every run with its score; nothing where none of them can be a name.

    What speaks against a run takes more time than what speaks for it, so it is asked only where it decides.
    """
    some = [(run, support(text, lower, run, _label(run, entities))) for run in runs(text)]
    if all(score < FLOOR for _, score in some):
        return []
    sure = [(run, _less_doubt(text, run, score) if score >= FLOOR else -1.0) for run, score in some]
    if all(score < GIVEN for _, score in sure):  # none that could lift another
        return sure
    rest = [
        (run, score if for_it >= FLOOR else _less_doubt(text, run, for_it))
        for (run, score), (_, for_it) in zip(sure, some, strict=True)
    ]
    return _together(text, _again(rest))


def _less_doubt(text: str, run: Run, score: float) -> float:
    """The score that is left; below 0 where no neighbour may lift it."""
    if score < 0:
        return score
    against = doubt(text, run)
    return score - against if against < 0.3 or score - against >= FLOOR else -1.0


def worth_asking(text: str, lower: str) -> list[tuple[int, int]]:
    """The sentences in which a model's word would decide: neither clear without it nor beyond its help."""
    spans: list[tuple[int, int]] = []
    for run in runs(text):
        if spans and run.end <= spans[-1][1]:
            continue
        best = _less_doubt(text, run, support(text, lower, run, "PERSON"))
        if best >= FLOOR > _less_doubt(text, run, support(text, lower, run, None)) - 0.3:
            spans.append(_sentence(text, run))
    return spans


_SENTENCE = 400  # code points that a sentence is searched for, to either side


def _sentence(text: str, run: Run) -> tuple[int, int]:
    low, high = max(0, run.start - _SENTENCE), min(len(text), run.end + _SENTENCE)
    start = max(text.rfind(mark, low, run.start) + len(mark) for mark in (". ", "? ", "! ", "\n"))
    ends = [e for mark in (". ", "? ", "! ", "\n") if (e := text.find(mark, run.end, high)) >= 0]
    return max(low, start), min(ends, default=high - 1) + 1


def _again(scored: Scored) -> Scored:
    """A part of a name that is sure stands for the same person elsewhere in the row."""
    known = {w for run, score in scored if score >= SURE for w in run.words if len(w) > 2}
    if not known:
        return scored
    return [(run, 0.8 if 0 <= score < SURE and set(run.words) <= known else score) for run, score in scored]


_TO = re.compile(r" (?:to|at|with|told|met|called|asked|and his \w+|and her \w+) ")
_BETWEEN = re.compile(r",? (?:and|&|or|y|und|et|e) |, ")


def _together(text: str, scored: Scored) -> Scored:
    """Names that are listed beside a sure one: *Romi, Erik and Amy*."""
    result = list(scored)
    for order in (range(1, len(result)), range(len(result) - 2, -1, -1)):
        step = -1 if order.step > 0 else 1
        for i in order:
            run, score = result[i]
            other, sure = result[i + step]
            gap = text[other.end : run.start] if step < 0 else text[run.end : other.start]
            if not 0 <= score < SURE or len(gap) > 16:
                continue
            listed = len(run.words) == len(other.words) and _BETWEEN.fullmatch(gap)
            both = score >= GIVEN <= sure  # two given names beside each other
            if (listed and (sure >= SURE or both)) or (
                sure >= SURE and score >= FLOOR and _TO.fullmatch(gap)
            ):
                result[i] = run, 0.75
    return result


def _label(run: Run, entities: Sequence[Entity] | None) -> str | None:
    """What the model calls the run; PERSON wins where it gives several labels."""
    labels = {e.label for e in entities or () if e.start < run.end and run.start < e.end}
    return "PERSON" if "PERSON" in labels else min(labels, default=None)


def _in_lower_case(text: str, lower: str) -> Iterator[Finding]:
    """Names that nobody capitalised: after strong words, or in a list of given names."""
    for cue, match in _after_cues(lower):
        start, end = match.span()
        words = match.group().split()
        if text[start:end] != match.group() or words[0] in COMMON or ordinary(words[0]):
            continue
        while len(words) > 1 and (words[-1] in COMMON or words[-1] in VERBS or ordinary(words[-1])):
            end -= len(words.pop()) + 1
        known = words[0] in given_names()
        told = cue == "my name is "
        if known or (told and len(words) > 1):
            yield Finding(start, end, "PERSON", 0.8 if told or words[0] not in AMBIGUOUS else 0.5)


_LOWER_CUES = (
    "my name is ", "i am called ", "i'm called ", "name: ", "dear ", "mr ", "mr. ", "mrs ", "mrs. ",
    "ms ", "ms. ", "dr ", "dr. ", "spoke to ", "spoke with ", "follow up with ", "called ", "named ",
)  # fmt: skip
_ONE_OR_TWO = re.compile(r"[^\W\d_]{2,20}(?: [^\W\d_]{2,20})?(?!\w)")


def _after_cues(lower: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Each cue with the one or two words behind it, from left to right."""
    places = []
    for cue in _LOWER_CUES:
        at = lower.find(cue)
        while at >= 0:
            if not at or not (lower[at - 1].isalnum() or lower[at - 1] == "_"):
                places.append((at, cue))
            at = lower.find(cue, at + 1)
    done = 0
    for at, cue in sorted(places):
        if at >= done and (match := _ONE_OR_TWO.match(lower, at + len(cue))):
            done = match.end()
            yield cue, match


_FIRM = re.compile(
    r"(?:inc|ltd|llc|llp|corp|corporation|gmbh|plc|ag|s\.a\.|s\.r\.l|pty|co|oy|ab|bv|n\.v|company|group|bank)\.?$"
)


def firms(text: str, entities: Sequence[Entity] | None) -> Iterator[Finding]:
    """Organisations: runs that end as firms do, and what the model calls one."""
    for run in runs(text):
        label = _label(run, entities)
        rest = re.match(
            r",? (?:Inc|Ltd|LLC|LLP|Corp|GmbH|PLC|plc|AG|Co|Group|Pty Ltd|S\.A\.)\b\.?",
            text[run.end : run.end + 10],
        )
        end = run.end + rest.end() if rest else run.end
        if rest or _FIRM.search(run.words[-1]):
            yield Finding(run.start, end, "ORGANIZATION", 0.9 if label == "ORG" else 0.8)
        elif label == "ORG":
            yield Finding(run.start, end, "ORGANIZATION", 0.72 if len(run.words) > 1 else 0.5)
