"""Names of people and firms: the shape of a name, the words around it, a list, and a model have to agree.

Each piece of evidence adds to or takes from a score; none of them decides alone. So a sentence like "Crohn
described it" or a heading such as "Kidney Failure" stays, though a model calls it a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tunewright.data.redact.findings import Finding
from tunewright.data.redact.name_model import Entity
from tunewright.data.redact.name_words import (
    AFTER,
    AMBIGUOUS,
    CALLED_AFTER,
    COMMON,
    EPONYMS,
    MEDIUM,
    PARTICLES,
    STRONG,
    SUFFIXES,
    TITLES,
    UPPER,
    like_a_surname,
    ordinary,
)
from tunewright.data.redact.wordlists import given_names, words

_CAP = rf"[{UPPER}](?:\w|['’-](?=[^\W\d_]))*"
_RUN = re.compile(
    rf"(?<![\w@/#&])(?:{_CAP})(?:(?:(?<=[{UPPER}])\.)? (?:(?:{'|'.join(PARTICLES)}) ){{0,2}}{_CAP}){{0,5}}"
)
_WORD = re.compile(r"[^\W\d_](?:\w|['’-](?=[^\W\d_]))*\.?")
_TITLE = re.compile(rf"(?<!\w)(?:{'|'.join(re.escape(t) for t in TITLES)})\.? {{0,2}}$")
_FIRM = re.compile(
    r"(?:inc|ltd|llc|llp|corp|corporation|gmbh|plc|ag|s\.a\.|s\.r\.l|pty|co|oy|ab|bv|n\.v|company|group|bank)\.?$"
)


FLOOR = 0.4


class Run(NamedTuple):
    """A run of capitalised words that may be a name."""

    start: int
    end: int
    words: tuple[str, ...]  # in lower case, without particles and full stops


def runs(text: str) -> Iterator[Run]:
    """Every run, without the ordinary words at its edges; *Pave's Irena Bílá* is two."""
    for match in _RUN.finditer(text):
        words: list[tuple[int, int, str]] = []
        for w in _WORD.finditer(match.group()):
            words.append((match.start() + w.start(), match.start() + w.end(), w.group()))
            if w.group().endswith(("'s", "’s")):
                yield from _trimmed(text, words)
                words = []
        yield from _trimmed(text, words)


def _trimmed(text: str, words: list[tuple[int, int, str]]) -> Iterator[Run]:
    first, last = 0, len(words)
    while first < last and _key(words[first][2]) in COMMON:
        first += 1
    while last > first and (_key(words[last - 1][2]) in COMMON or words[last - 1][2] in PARTICLES):
        last -= 1
    if first == last:
        return
    kept = words[first:last]
    end = kept[-1][1]
    if kept[-1][2].endswith(("'s", "’s")):
        end -= 2
    if len(kept[-1][2]) > 3 and text[end - 1] == ".":
        end -= 1
    yield Run(kept[0][0], end, tuple(_key(w) for _, _, w in kept if w not in PARTICLES))


def _key(word: str) -> str:
    word = word.lower().rstrip(".")
    return word[:-2] if word.endswith(("'s", "’s")) else word


def people(text: str, lower: str, entities: Sequence[Entity] | None) -> list[Finding]:
    """Persons in a folded text. ``entities`` are those of the model, ``None`` where it was not asked."""
    twins = _Twins(text)
    scored = [(run, _score(text, lower, run, _label(run, entities), twins)) for run in runs(text)]
    scored = _together(text, _again(scored))
    found = [Finding(r.start, r.end, "PERSON", round(min(s, 0.99), 2)) for r, s in scored if s >= FLOOR]
    return found + list(_in_lower_case(text, lower))


def worth_asking(text: str, lower: str) -> list[tuple[int, int]]:
    """The sentences in which a model's word would decide: neither clear without it nor beyond its help."""
    twins = _Twins(text)
    spans: list[tuple[int, int]] = []
    for run in runs(text):
        if spans and run.end <= spans[-1][1]:
            continue
        if _score(text, lower, run, "PERSON", twins) >= FLOOR > _score(text, lower, run, None, twins) - 0.3:
            spans.append(_sentence(text, run))
    return spans


_SENTENCE = 400  # code points that a sentence is searched for, to either side


def _sentence(text: str, run: Run) -> tuple[int, int]:
    low, high = max(0, run.start - _SENTENCE), min(len(text), run.end + _SENTENCE)
    start = max(text.rfind(mark, low, run.start) + len(mark) for mark in (". ", "? ", "! ", "\n"))
    ends = [e for mark in (". ", "? ", "! ", "\n") if (e := text.find(mark, run.end, high)) >= 0]
    return max(low, start), min(ends, default=high - 1) + 1


Scored = list[tuple[Run, float]]
SURE, GIVEN = 0.7, 0.5


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


class _Twins:
    """Whether a word stands in lower case elsewhere in the row: then it is a word, not a name."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words: frozenset[str] | None = None

    def of(self, words: Sequence[str]) -> int:
        """How many of ``words`` do."""
        if self.words is None:
            self.words = frozenset(_LOWER_WORD.findall(self.text))
        return sum(w in self.words for w in words)


_LOWER_WORD = re.compile(r"(?<!\w)[a-z][^\W\d_]{2,}")


def _score(text: str, lower: str, run: Run, label: str | None, twins: _Twins) -> float:
    """The sum of what speaks for a name and against it; below 0 where no neighbour may lift it."""
    before, behind = lower[max(0, run.start - 48) : run.start], text[run.end : run.end + 32]
    names = [w for w in run.words if len(w) > 1 and w not in SUFFIXES]
    if not names or len(names) > 5:
        return -1.0
    known = [w in given_names() for w in names]
    sure_given = known[0] and names[0] not in AMBIGUOUS
    # the model often takes a foreign name for a firm or a town; that it saw anything still supports a
    # known one
    score = _shape(run, names) + {"PERSON": 0.5, None: 0.0}.get(label, 0.2 if sure_given else -0.05)
    if known[0]:
        score += 0.5 if sure_given else 0.15
    elif any(known):
        score += 0.2
    score += _context(before, behind) + _line(text, run, names)
    doubt = _doubt(text, run, names, behind, twins)
    return score - doubt if doubt < 0.3 or score - doubt >= FLOOR else -1.0


def _shape(run: Run, names: Sequence[str]) -> float:
    """Two to four words, an initial, an ending of family names, letters that English lacks."""
    score = 0.2 if len(names) > 1 else 0.0
    if len(run.words) > len(names) > 1:
        score += 0.15
    if like_a_surname(names[-1]):
        score += 0.2
    if any(not w.isascii() for w in names):
        score += 0.15
    return score


def _context(before: str, behind: str) -> float:
    """The words just before and behind."""
    score = 0.0
    greeted = _GREETING.search(before) and behind[:1] in (",", "!", "\n")
    if greeted or _TITLE.search(before) or STRONG.search(before):
        score += 0.72
    elif MEDIUM.search(before):
        score += 0.35
    elif _SPEAKER.search(before) and behind[:1] == ":":
        score += 0.2
    return score + (0.3 if AFTER.search(behind) else 0.0)


_GREETING = re.compile(
    r"(?:^|[\s\"'(])(?:hi|hello|hey|dear|good (?:morning|afternoon|evening)|hallo|bonjour|hola|ciao"
    r"|liebe[r]?|cher|chère|querid[oa]) $"
)
_SPEAKER = re.compile(r"(?:^|\n)[\s>\"]{0,4}$")


def _line(text: str, run: Run, names: Sequence[str]) -> float:
    """A line of its own above an address or a number, as in a letter or a signature."""
    if not 2 <= len(names) <= 4:
        return 0.0
    start = text.rfind("\n", 0, run.start) + 1
    if text[start : run.start].strip(" \t>?*-") or not _LETTER_HEAD.match(text, run.end):
        return 0.0
    return 0.5


_LETTER_HEAD = re.compile(
    r"[ \t]*\n[\s>?]{0,8}(?:[^\n]{1,60}\n[\s>?]{0,8}){0,2}(?:\d{1,6} |\+?\(?\d{2}|PSC|Unit \d|PO Box"
    r"|Phone|Tel)"
)


def _doubt(text: str, run: Run, names: Sequence[str], behind: str, twins: _Twins) -> float:
    """What speaks against a name: diseases, places and firms called after people, headings, plain words."""
    doubt = 0.0
    follows = re.match(r"(?:['’]s)?[ -]([A-Za-z]+)", behind)
    if (follows and follows.group(1).lower() in CALLED_AFTER) or names[-1] in CALLED_AFTER:
        doubt += 0.6
    if any(w in EPONYMS for w in names):
        doubt += 0.4
    if len(names) == 1 and "-" in names[0]:
        doubt += 0.2
    plain = sum(ordinary(w) for w in names)
    if plain:
        doubt += 0.35 + 0.35 * (plain == len(names) or ordinary(names[-1]))
    doubt += 0.4 * min(1, twins.of(names))
    if text[run.start : run.end].isupper() and run.end - run.start > 2:
        doubt += 0.45 if len(names) == 1 and not text.isupper() else 0.15
    if _HOUSE_NUMBER.search(text, max(0, run.start - 7), run.start) or re.match(r" \d", behind):
        doubt += 0.3
    return doubt


_HOUSE_NUMBER = re.compile(r"\d[a-z]? $")


def _in_lower_case(text: str, lower: str) -> Iterator[Finding]:
    """Names that nobody capitalised: after strong words, or in a list of given names."""
    for match in _LOWER_CUE.finditer(lower):
        start, end = match.span(2)
        words = match.group(2).split()
        if text[start:end] != match.group(2) or words[0] in COMMON or ordinary(words[0]):
            continue
        while len(words) > 1 and (words[-1] in COMMON or words[-1] in _VERBS or ordinary(words[-1])):
            end -= len(words.pop()) + 1
        known = words[0] in given_names()
        told = match.group(1) == "my name is"
        if known or (told and len(words) > 1):
            yield Finding(start, end, "PERSON", 0.8 if told or words[0] not in AMBIGUOUS else 0.5)


_LOWER_CUE = re.compile(
    r"\b(my name is|i am called|i'm called|name:|dear|mr\.?|mrs\.?|ms\.?|dr\.?|spoke (?:to|with)"
    r"|follow up with|called|named)"
    r" ([^\W\d_]{2,20}(?: [^\W\d_]{2,20})?)(?!\w)"
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


def with_capitals(text: str) -> str:
    """A text that has no capitals, with those of the names in it; other texts as they are. Same length.

    Only a known given name gets one, and a word behind it that nothing else explains.
    """
    if not text.islower():
        return text
    given = given_names()
    parts = list(text)
    after_name = False
    for match in _WORD.finditer(text):
        word = _key(match.group())
        known = word in given and word not in AMBIGUOUS and len(word) > 2
        surname = after_name and text[match.start() - 1] == " " and _may_be_surname(text, match.start(), word)
        if known or surname:
            capital = text[match.start()].upper()
            if len(capital) == 1:
                parts[match.start()] = capital
        after_name = known
    return "".join(parts)


def _may_be_surname(text: str, start: int, word: str) -> bool:
    plain = word in COMMON or word in PARTICLES or word in _VERBS or ordinary(word)
    return len(word) > 2 and not plain and not AFTER.match(text, start)


_VERBS = frozenset(words("verbs"))
